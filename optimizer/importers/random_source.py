"""A model of random weights in the shapes of a config: for planning, where what matters is how large things are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch

from optimizer.importers.errors import DamagedFile
from optimizer.importers.source import Source
from runtime.models import architecture, checkpoint_tensors


@dataclass(frozen=True)
class RandomCheckpoint:
    """Tensors drawn when they are read, the same ones for the same name: normal, of about 1 / sqrt(columns)."""

    shapes: dict[str, tuple[int, ...]]

    def shape(self, name: str) -> tuple[int, ...] | None:
        return self.shapes.get(name)

    def is_bf16(self, name: str) -> bool:
        return True

    def where(self, name: str) -> str:
        return f"{name}, drawn at random"

    def read(self, name: str) -> torch.Tensor:
        shape = self.shapes[name]
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") >> 1
        drawn: torch.Tensor = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        return drawn.div_(shape[-1] ** 0.5).to(torch.bfloat16)

    def stored(self, name: str) -> None:
        """Nothing is quantized."""

    def notes(self) -> list[str]:
        return []

    def others(self, names: Collection[str]) -> list[str]:
        return []


def open_random(config_path: Path) -> Source:
    """The source of the architecture that `config_path`, a Hugging Face config.json, describes. No tokenizer, no template."""
    try:
        config = json.loads(config_path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DamagedFile(f"{config_path} must be a Hugging Face config.json: {error}") from error
    described = architecture(config)
    parts = (part for parts in checkpoint_tensors(described).values() for part in parts)
    return Source(
        architecture=described,
        checkpoint=RandomCheckpoint({part.name: part.shape for part in parts}),
        tokenizer_json="",
        chat_template=None,
        generation_config={},
        files=(config_path,),
    )
