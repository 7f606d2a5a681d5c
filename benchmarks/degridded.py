"""The de-gridded twin of a model: the same function, whose weights lie on no grid and whose activations have outlier channels.

    python -m benchmarks.degridded models/SmolLM2-135M-Instruct.Q4_1.gguf --out FOLDER [--seed 0]

A checkpoint that was quantized before proves nothing when it is quantized again. For every channel between two linear layers a
factor s = exp(N(0, SPREAD)) is drawn; the weights that read the channel are multiplied by it, what produces it is divided:
norm gains before qkv, gate_up and an untied head, the rows of v that the query heads of a group share before o, the rows of up
before down. The command writes the twin as a Hugging Face folder; `degridded` gives it as a Source.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from artifacts.errors import UserError
from optimizer.importers import Source, open_source
from optimizer.importers.gguf_config import hf_config
from optimizer.importers.gguf_file import GgufFile
from optimizer.transforms import ChannelScales, scalable_groups, transformed
from optimizer.transforms.channel_scales import num_factors
from runtime.chat import special_tokens
from runtime.models import checkpoint_tensors

SPREAD = 0.5


def degridded(source: Source, seed: int = 0, spread: float = SPREAD) -> Source:
    """The twin of `source`, the same one for the same seed; UntransformableModelError where nothing folds."""
    generator = torch.Generator().manual_seed(seed)
    factors = {
        group: (spread * torch.randn(num_factors(source.architecture, group), generator=generator)).exp()
        for group in scalable_groups(source.architecture)
    }
    return transformed(source, ChannelScales(factors, {"degridded": {"seed": seed, "spread": spread}}))


def write_hf_folder(source: Source, config: dict[str, object], folder: Path) -> None:
    """`source`, dense, as a Hugging Face folder in fp32; `config` is its config.json.

    UserError where a checkpoint of its family has rows, or gains, in another form than a Source.
    """
    for name, parts in checkpoint_tensors(source.architecture).items():
        if any(part.rows or part.gain for part in parts):
            raise UserError(
                f"checkpoints of {source.architecture.family} store {name} in another form than it has here, and only families "
                "that store all tensors as they are can be written, such as llama; use `degridded` as a Source"
            )
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, parts in checkpoint_tensors(source.architecture).items():
        rows = torch.split(source.tensor(name).to(torch.float32), [part.shape[0] for part in parts])
        tensors |= {part.name: tensor.clone() for part, tensor in zip(parts, rows, strict=True)}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    tokens = special_tokens(source.generation_config)
    generation = {key: value for key, value in source.generation_config.items() if key not in tokens}
    files: dict[str, dict[str, object]] = {
        "config.json": config,
        "generation_config.json": generation,
        "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", **tokens},
    }
    for file, content in files.items():
        (folder / file).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (folder / "tokenizer.json").write_text(source.tokenizer_json, encoding="utf-8")
    if source.chat_template is not None:
        (folder / "chat_template.jinja").write_text(source.chat_template, encoding="utf-8")


def config_of(path: Path) -> dict[str, object]:
    """The config.json of the model at `path`, a Hugging Face folder or a .gguf file."""
    if path.is_dir():
        config: dict[str, object] = json.loads((path / "config.json").read_text(encoding="utf-8"))
        return config
    return hf_config(GgufFile.open(path))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    twin = degridded(open_source(arguments.source), arguments.seed)
    write_hf_folder(twin, config_of(arguments.source), arguments.out)
    print(f"{arguments.out}: {sum(file.stat().st_size for file in arguments.out.iterdir()) / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
