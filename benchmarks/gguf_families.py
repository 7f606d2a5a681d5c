"""Does llama.cpp compute from our GGUF exports what transformers computes? Small random models of every family.

    python -m benchmarks.gguf_families --llama-cpp PYTHON --work FOLDER [--only NAME ...] [--out RESULT.json]

A model of tests/importers/gguf_models.py is written as llama.cpp's converter writes it, imported, made a bundle of in
fp32 and exported; llama.cpp, by the Python of an environment that has llama-cpp-python, reads the export. Compared are the
log-probabilities after every token of a text with those of transformers on the model itself. The text is longer than the
windows, but for families whose windows llama.cpp does not apply. llama.cpp looks gelu up in a table of fp16; `same_gelu` is the
comparison with transformers given that gelu.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from artifacts.architecture import Architecture
from artifacts.precision import Scheme
from benchmarks.interchange.__main__ import compared, theirs
from benchmarks.interchange.bundles import LIMITS, Bundler
from benchmarks.interchange.plans import Plan
from benchmarks.interchange.readers import Floats, log_softmax
from kernels.cpu.host import host
from optimizer.exporters import export_bundle
from optimizer.importers import open_source
from optimizer.importers.gguf_families import GGUF_FAMILIES
from tests.importers.gguf_models import FAMILIES
from tests.importers.gguf_writing import write_gguf
from tests.importers.random_models import random_model
from tests.runtime.conftest import moderate

NUM_TOKENS, WITHIN_WINDOW = 48, 24


class Unquantized(Plan):
    """fp32 throughout, the head too."""

    def of(self, architecture: Architecture, *, float_activations: bool = False) -> dict[str, Scheme]:
        return dict.fromkeys(architecture.linear_shapes(), Scheme.parse(self.linear))


class HalfGelu(torch.nn.Module):
    """llama.cpp's: between -10 and 10 the fp16 nearest to gelu of the fp16 nearest to x."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        looked_up = torch.nn.functional.gelu(x.half().float(), approximate="tanh").half().float()
        return torch.where(x <= -10, 0.0, torch.where(x >= 10, x, looked_up))


def by_transformers(model: PreTrainedModel, tokens: list[int]) -> Floats:
    with torch.no_grad():
        return log_softmax(model(torch.tensor([tokens])).logits[0, :-1].numpy())


def record(name: str, work: Path, python: str) -> dict[str, Any]:
    config, metadata, extra = FAMILIES[name]
    folder = work / name.replace(", ", "-").replace(" ", "-")
    folder.mkdir(parents=True)
    model = moderate(random_model(config))
    source = open_source(write_gguf(folder / "model.gguf", model, metadata=metadata, extra=extra))
    source = replace(source, architecture=source.architecture.model_copy(update={"max_position": LIMITS.max_model_len}))
    windows = GGUF_FAMILIES[source.architecture.family].windows
    length = WITHIN_WINDOW if source.architecture.layer_windows and windows and not windows.applied else NUM_TOKENS
    tokens = np.random.default_rng(0).integers(2, config.vocab_size, length).tolist()
    export = folder / "export.gguf"
    export_bundle(Bundler(source, [tokens], folder).bundle(Unquantized("fp32")), "gguf", export)
    read = theirs("llama.cpp", python, export, [tokens])

    def against(expected: Floats) -> dict[str, float]:
        return compared(expected, read.logprobs[0]) | {"largest": float(np.abs(expected - read.logprobs[0]).max())}

    found: dict[str, Any] = {"model": name, "llama_cpp": read.version, **against(by_transformers(model, tokens))}
    if source.architecture.activation == "gelu":
        for layer in model.model.layers:
            layer.mlp.act_fn = HalfGelu()
            # of what a layer reads beside the stream, and of experts
            for module in (layer, getattr(layer, "experts", None)):
                if hasattr(module, "act_fn"):
                    module.act_fn = HalfGelu()
        found["same_gelu"] = against(by_transformers(model, tokens))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-cpp", required=True, metavar="PYTHON")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=FAMILIES, default=list(FAMILIES), metavar="NAME")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    results = []
    for name in args.only:
        results.append(record(name, args.work, args.llama_cpp))
        print(json.dumps(results[-1]), flush=True)
    command = "python -m benchmarks.gguf_families --llama-cpp PYTHON --work FOLDER"
    if args.only != list(FAMILIES):
        command += f" --only {' '.join(map(repr, args.only))}"
    if args.out:
        args.out.write_text(json.dumps({"command": command, "cpu": host().model, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
