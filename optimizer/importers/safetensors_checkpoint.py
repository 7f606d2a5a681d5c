"""Tensors of a folder of safetensors: one file, or shards with an index."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from optimizer.importers.errors import DamagedFile, MissingFile, PickleCheckpoint, TiedHeadDiffers, UnsupportedDtype

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
#: what can be read as it is; the others are parts of a quantized matrix
FLOATS = ("F32", "F16", "BF16")
_DTYPES = (*FLOATS, "F8_E4M3", "I8", "U8", "I32", "I64")
_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"


@dataclass(frozen=True)
class SafetensorsCheckpoint:
    """Headers are read when it is opened; a tensor's data is mapped, and paged in, when it is read."""

    folder: Path
    files: tuple[Path, ...]
    _shards: dict[str, Path]
    """Where each tensor is, or should be according to the index."""
    _headers: dict[str, tuple[str, tuple[int, ...]]]
    """Type and shape."""

    @classmethod
    def open(cls, folder: Path) -> SafetensorsCheckpoint:
        """The checkpoint in `folder`. Raises MissingFile, PickleCheckpoint, DamagedFile, UnsupportedDtype."""
        index, single = folder / _INDEX, folder / _SINGLE
        shards: dict[str, Path] = {}
        files: tuple[Path, ...] = (single,)
        if not single.exists():
            if not index.exists():
                raise _no_weights(folder)
            shards = _read_index(index)
            files = tuple(sorted(set(shards.values())))
        headers = {}
        for path in files:
            for name, header in _read_headers(path).items():
                shards[name], headers[name] = path, header
        return cls(folder, files if single.exists() else (index, *files), shards, headers)

    def require_floats(self) -> None:
        """UnsupportedDtype unless every tensor is a float one, as in a checkpoint that is not quantized."""
        for name, (dtype, _) in self._headers.items():
            if dtype not in FLOATS:
                raise UnsupportedDtype(
                    f"{self.where(name)} has type {dtype}; only {', '.join(FLOATS)} can be imported where neither config.json "
                    "(quantization_config) nor hf_quant_config.json says how it was quantized"
                )

    def names(self) -> list[str]:
        return list(self._headers)

    def dtype(self, name: str) -> str | None:
        """The type's name according to the header, None if the tensor is not there."""
        return self._headers[name][0] if name in self._headers else None

    def shape(self, name: str) -> tuple[int, ...] | None:
        return self._headers[name][1] if name in self._headers else None

    def where(self, name: str) -> str:
        return f"{name} in {self._shards.get(name, self.folder)}"

    def read(self, name: str) -> torch.Tensor:
        with safe_open(self._shards[name], framework="pt") as file:
            tensor: torch.Tensor = file.get_tensor(name)
        return tensor

    def stored(self, name: str) -> None:
        """Nothing is quantized."""

    def notes(self) -> list[str]:
        return []

    def others(self, names: Collection[str]) -> list[str]:
        """All but the frequency tables that old checkpoints carry, and a tied head that repeats the embedding.

        Raises TiedHeadDiffers: engines disagree on which of two different ones counts.
        """
        others = [name for name in self._headers if name not in names and not name.endswith("rotary_emb.inv_freq")]
        if _HEAD in others and _EMBEDDING in self._headers:
            if not torch.equal(self.read(_HEAD), self.read(_EMBEDDING)):
                raise TiedHeadDiffers(
                    f"config.json says tie_word_embeddings, but {self.where(_HEAD)} differs from {_EMBEDDING}; set "
                    "tie_word_embeddings to false to use it, or delete the tensor"
                )
            others.remove(_HEAD)
        return others


def _no_weights(folder: Path) -> MissingFile | PickleCheckpoint:
    pickles = sorted(path.name for path in folder.glob("*.bin"))
    if not pickles:
        return MissingFile(f"{folder} has neither {_SINGLE} nor {_INDEX}")
    return PickleCheckpoint(
        f"{folder} has its weights as pickle only ({pickles[0]}), which runs code when it is loaded; convert it where you "
        "trust it: AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder)"
    )


def _read_index(index: Path) -> dict[str, Path]:
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = {str(tensor): str(shard) for tensor, shard in weight_map.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedFile(f"{index} must be JSON with a weight_map of tensor names to file names: {error!r}") from None
    for shard in names.values():
        if Path(shard).name != shard:
            raise DamagedFile(f"{index} must name files beside it, got {shard!r}")
    return {tensor: index.parent / shard for tensor, shard in names.items()}


def _read_headers(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    if not path.exists():
        raise MissingFile(f"{path} is not there; the index lists it")
    headers = {}
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                entry = file.get_slice(name)
                if entry.get_dtype() not in _DTYPES:
                    raise UnsupportedDtype(
                        f"{name} in {path} has type {entry.get_dtype()}; only {', '.join(_DTYPES)} can be imported"
                    )
                headers[name] = entry.get_dtype(), tuple(entry.get_shape())
    except SafetensorError as error:
        raise DamagedFile(f"{path} is truncated or not safetensors: {error}") from None
    return headers
