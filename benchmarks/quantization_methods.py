"""KL of each quantization method on the de-gridded SmolLM2, every linear layer in one scheme, on text it was not calibrated on.

    python -m benchmarks.quantization_methods --model models/SmolLM2-135M-Instruct.Q4_1.gguf --text wikitext2_valid.txt
        [--scheme int4-g64-sym] [--methods rtn gptq ...] [--sequences 16] [--tokens 256] [--out benchmarks/results/NAME.json]

Embedding and head (tied) stay in fp32. Calibration sequences are from the first half of the text, evaluation's from the second.
Layers run in fp32 torch with dequantized weights: what differs is the weights alone. Reports KL(float || quantized) in nats per
token with its 95 % interval, and its ratio to rtn's. With --out, methods that the file has are not run again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import rms_norm

from artifacts.precision import Scheme
from benchmarks.degridded import degridded
from benchmarks.held_out import spaced, whole_text
from kernels.cpu.host import host
from optimizer.evaluation import Evaluation
from optimizer.evaluation.metrics import compare
from optimizer.importers import Source, open_source
from optimizer.quantization import ROUND_TO_NEAREST, Gptq, QuantizedMatrix, Quantizer, fit_clipped_grid, round_to_nearest
from optimizer.quantization.calibration import Calibration
from optimizer.quantization.clipping import ClippedRounding
from optimizer.quantization.decoder_layer import DecoderLayer
from optimizer.quantization.gptq import gptq
from optimizer.quantization.input_statistics import InputAccumulator
from optimizer.transforms import AWQ, search_scales, transformed

Tokens = list[int]


@dataclass(frozen=True)
class Weights:
    """The tensors of `source` with layer groups rounded by `quantize`; embedding and head are left as they are."""

    source: Source
    scheme: Scheme
    quantize: Quantizer

    def tensor(self, name: str) -> Tensor:
        tensor = self.source.tensor(name)
        group = name.removesuffix(".weight")
        if group not in self.source.architecture.linear_shapes() or not group.startswith("layers."):
            return tensor
        return torch.from_numpy(self.quantize(group, tensor.to(torch.float32), self.scheme).dequantize())


class Text:
    """Sequences on their way through a model, a layer at a time: fp32 [T, hidden_size] each."""

    def __init__(self, source: Source, sequences: Sequence[Tokens]) -> None:
        embedding = source.tensor("embed.weight")
        self.hidden = [embedding[torch.tensor(ids)].to(torch.float32) for ids in sequences]
        self._source, self._longest = source, max(map(len, sequences))

    def layer(self, index: int, tensors: Callable[[str], Tensor]) -> DecoderLayer:
        return DecoderLayer(self._source.architecture, index, tensors, self._longest)

    def through(self, layer: DecoderLayer) -> None:
        self.hidden = [layer(states) for states in self.hidden]

    def logits(self) -> Iterator[Tensor]:
        """fp32 [T, vocab] of each sequence, once all layers are passed."""
        a = self._source.architecture
        gain = self._source.tensor("final_norm.weight").to(torch.float32)
        head = self._source.tensor("embed.weight" if a.tie_embeddings else "head.weight").to(torch.float32)
        for states in self.hidden:
            yield rms_norm(states, gain.shape, gain, a.rms_norm_eps) @ head.T


def run(source: Source, sequences: Sequence[Tokens], tensors: Callable[[str], Tensor]) -> Text:
    """`sequences` after the last layer of a model whose layers have `tensors`."""
    text = Text(source, sequences)
    for index in range(source.architecture.num_layers):
        text.through(text.layer(index, tensors))
    return text


def sequential_gptq(
    source: Source, scheme: Scheme, calibration: Sequence[Tokens], sequences: Sequence[Tokens], clip: bool
) -> Text:
    """`sequences` after layers that GPTQ rounds one by one, each calibrated on what came through the rounded ones before it."""
    a, seen, text = source.architecture, Text(source, calibration), Text(source, sequences)
    for index in range(a.num_layers):
        shapes = {name: shape for name, shape in a.linear_shapes().items() if name.startswith(f"layers.{index}.")}
        accumulators = {group: InputAccumulator(columns) for group, (_, columns) in shapes.items()}
        layer = seen.layer(index, source.tensor)
        for states in seen.hidden:
            layer(states, lambda group, rows, to=accumulators: to[group].add(rows))
        hessians = {group: accumulator.statistics().hessian for group, accumulator in accumulators.items()}

        def quantize(name: str, weight: Tensor, scheme: Scheme, hessians: dict[str, Tensor] = hessians) -> QuantizedMatrix:
            fit = partial(fit_clipped_grid, importance=hessians[name].diagonal())
            return gptq(name, weight, scheme, hessians[name], fit) if clip else gptq(name, weight, scheme, hessians[name])

        rounded = seen.layer(index, Weights(source, scheme, quantize).tensor)
        seen.through(rounded)
        text.through(rounded)
    return text


def methods(
    source: Source, scheme: Scheme, calibration: Sequence[Tokens], sequences: Sequence[Tokens], folder: Path
) -> dict[str, Callable[[], Text]]:
    """Name -> what runs `sequences` through the model quantized so."""
    statistics = Calibration(source, calibration, folder / "statistics")

    def rounded(quantize: Quantizer) -> Callable[[], Text]:
        return lambda: run(source, sequences, Weights(source, scheme, quantize).tensor)

    def on_awq(quantizer: Callable[[Source], Quantizer]) -> Callable[[], Text]:
        def run_scaled() -> Text:
            plan = dict.fromkeys(source.architecture.linear_shapes(), scheme)
            scaled = transformed(source, search_scales(source, statistics, plan, AWQ, folder / "awq scales"))
            return run(scaled, sequences, Weights(scaled, scheme, quantizer(scaled)).tensor)

        return run_scaled

    return {
        "rtn": rounded(round_to_nearest),
        "rtn+clip, unweighted": rounded(partial(round_to_nearest, fit=fit_clipped_grid)),
        "rtn+clip": rounded(ClippedRounding(statistics)),
        "gptq, no activation order": rounded(Gptq(statistics, activation_order=False)),
        "gptq": rounded(Gptq(statistics)),
        "gptq, damping 0.05": rounded(Gptq(statistics, damping=0.05)),
        "gptq, damping 0.002": rounded(Gptq(statistics, damping=0.002)),
        "gptq+clip": rounded(Gptq(statistics, clip=True)),
        "gptq+clip, unweighted": rounded(
            lambda name, weight, scheme: gptq(name, weight, scheme, statistics.statistics(name).hessian, fit_clipped_grid)
        ),
        "awq": on_awq(lambda scaled: ROUND_TO_NEAREST.quantize),
        "awq+gptq": on_awq(lambda scaled: Gptq(Calibration(scaled, calibration, folder / "awq statistics"))),
        "awq+gptq+clip": on_awq(lambda scaled: Gptq(Calibration(scaled, calibration, folder / "awq statistics"), clip=True)),
        "gptq, sequential": lambda: sequential_gptq(source, scheme, calibration, sequences, clip=False),
        "gptq+clip, sequential": lambda: sequential_gptq(source, scheme, calibration, sequences, clip=True),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--scheme", type=Scheme.parse, default=Scheme.parse("int4-g64-sym"))
    parser.add_argument("--methods", nargs="*")
    parser.add_argument("--calibration-sequences", type=int, default=32)
    parser.add_argument("--sequences", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    source = degridded(open_source(arguments.model), arguments.seed)
    every = whole_text(arguments.text, source.tokenizer_json, arguments.tokens)
    half = len(every) // 2
    calibration, evaluation = spaced(every[:half], arguments.calibration_sequences), spaced(every[half:], arguments.sequences)
    baseline = run(source, evaluation, source.tensor)
    setting = {
        "cpu": host().model,
        "model": arguments.model.name,
        "twin": {"seed": arguments.seed},
        "scheme": arguments.scheme.name,
        "kept_in_fp32": ["embed, which is the head"] if source.architecture.tie_embeddings else ["embed", "head"],
        "calibration": {"text": arguments.text.name, "part": "first half", "num_sequences": len(calibration)},
        "evaluation": {"text": arguments.text.name, "part": "second half", "num_sequences": len(evaluation)},
        "tokens_per_sequence": arguments.tokens,
    }
    results = _kept(arguments.out, setting)
    with tempfile.TemporaryDirectory() as folder:
        offered = methods(source, arguments.scheme, calibration, evaluation, Path(folder))
        for name in [name for name in arguments.methods or offered if name not in results]:
            candidate = offered[name]()
            logits = zip(evaluation, baseline.logits(), candidate.logits(), strict=True)
            scores = [compare(ids, float_.numpy(), quantized.numpy()) for ids, float_, quantized in logits]
            record = Evaluation.of(scores, seed=0).record()
            results[name] = {key: record[key] for key in ("kl", "top1_agreement", "perplexity", "perplexity_increase")}
            if "rtn" in results:
                results[name]["kl_relative_to_rtn"] = results[name]["kl"]["value"] / results["rtn"]["kl"]["value"]
            print(name, json.dumps(results[name]), flush=True)
            if arguments.out:
                arguments.out.write_text(json.dumps({**setting, "methods": results}, indent=2) + "\n")


def _kept(path: Path | None, setting: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The results in the file at `path`; ValueError where they are of another setting."""
    if path is None or not path.exists():
        return {}
    report: dict[str, Any] = json.loads(path.read_text())
    results: dict[str, dict[str, Any]] = report.pop("methods")
    if report != setting:
        raise ValueError(f"{path} holds results of another setting; give another --out")
    return results


if __name__ == "__main__":
    main()
