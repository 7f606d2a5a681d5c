"""Tensors of a folder of safetensors: one file, or shards with an index."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from optimizer.importers.errors import DamagedFile, MissingFile, PickleCheckpoint, UnsupportedDtype

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
#: what can be read as it is; the others are parts of a quantized matrix
FLOATS = ("F32", "F16", "BF16")
_DTYPES = (*FLOATS, "F8_E4M3", "I8", "U8", "I32", "I64")
_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"
_BASE_MODEL = re.compile(r"(embed_tokens(_per_layer)?|layers|norm|per_layer_\w+)\.")
#: tables that old checkpoints carry and every engine computes from the config
_TABLE = re.compile(r"(.*\.)?(rotary_emb\.(inv_freq|cos_cached|sin_cached)|rope\.freqs|masked_bias)")


@dataclass(frozen=True)
class SafetensorsCheckpoint:
    """Headers are read when it is opened; a tensor's data is mapped, and paged in, when it is read."""

    folder: Path
    files: tuple[Path, ...]
    _shards: dict[str, Path]
    """Where each tensor is, or should be according to the index."""
    _headers: dict[str, tuple[str, tuple[int, ...]]]
    """Type and shape."""
    _unread: dict[str, str] = field(default_factory=dict)
    """Tensors that are not read, each with the reason why it has no effect."""
    _remarks: tuple[str, ...] = ()
    _stored_names: dict[str, str] = field(default_factory=dict)
    """What a tensor is called in its file, where that is another name."""

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
        names = _full_names({**shards, **headers})
        shards = {names[name]: path for name, path in shards.items()}
        headers = {names[name]: header for name, header in headers.items()}
        renamed = {full: name for name, full in names.items() if full != name}
        tables = {name: "every engine computes it from the config" for name in headers if _TABLE.fullmatch(name)}
        return cls(folder, files if single.exists() else (index, *files), shards, headers, tables, _stored_names=renamed)

    @classmethod
    def of_file(cls, path: Path) -> SafetensorsCheckpoint:
        """The tensors of one file, by the names that they have there. Raises MissingFile, DamagedFile, UnsupportedDtype."""
        headers = _read_headers(path)
        return cls(path.parent, (path,), dict.fromkeys(headers, path), headers)

    def without_layers(self, start: int, stop: int) -> SafetensorsCheckpoint:
        """Layers `start` to `stop` draft tokens ahead; the model without them gives the same logits."""
        layer = re.compile(r"model\.layers\.(\d+)\.")
        numbers = {name: int(found[1]) for name in self._headers if (found := layer.match(name))}
        drafts = {name: "it drafts tokens, which nothing here does" for name, i in numbers.items() if start <= i < stop}
        return replace(self, _unread=self._unread | drafts)

    def without_effect(self, is_unused: Callable[[str], bool]) -> SafetensorsCheckpoint:
        """Without tensors that the model has no use for."""
        unused = {name: "the layer attends to another layer's keys and values" for name in self._headers if is_unused(name)}
        return replace(self, _unread=self._unread | unused)

    def with_tied_head(self) -> tuple[SafetensorsCheckpoint, bool]:
        """Whether the head really is the embedding, as the config says: not if another one is stored, as in transformers 5."""
        if _HEAD not in self._headers:
            return self, True
        if _EMBEDDING not in self._headers:
            headers = {_EMBEDDING if name == _HEAD else name: header for name, header in self._headers.items()}
            shards = self._shards | {_EMBEDDING: self._shards[_HEAD]}
            names = self._stored_names | {_EMBEDDING: _HEAD}
            return replace(self, _headers=headers, _shards=shards, _stored_names=names), True
        if self._headers[_HEAD] == self._headers[_EMBEDDING] and torch.equal(self.read(_HEAD), self.read(_EMBEDDING)):
            return replace(self, _headers={name: header for name, header in self._headers.items() if name != _HEAD}), True
        remark = f"config.json says tie_word_embeddings, but {self.where(_HEAD)} is not {_EMBEDDING}: both are used"
        return replace(self, _remarks=(*self._remarks, remark)), False

    def require_floats(self) -> None:
        """UnsupportedDtype unless every tensor is a float one, as in a checkpoint that is not quantized."""
        for name, (dtype, _) in self._headers.items():
            if dtype not in FLOATS and name not in self._unread:
                raise UnsupportedDtype(
                    f"{self.where(name)} has type {dtype}; only {', '.join(FLOATS)} can be imported where neither config.json "
                    "(quantization_config) nor a separate file (hf_quant_config.json) says how it was quantized"
                )

    def names(self) -> list[str]:
        return list(self._headers)

    def dtype(self, name: str) -> str | None:
        """The type's name according to the header, None if the tensor is not there."""
        return self._headers[name][0] if name in self._headers else None

    def shape(self, name: str) -> tuple[int, ...] | None:
        return self._headers[name][1] if name in self._headers else None

    def is_bf16(self, name: str) -> bool:
        return self.dtype(name) == "BF16"

    def where(self, name: str) -> str:
        return f"{self._stored_names.get(name, name)} in {self._shards.get(name, self.folder)}"

    def read(self, name: str) -> torch.Tensor:
        with safe_open(self._shards[name], framework="pt") as file:
            tensor: torch.Tensor = file.get_tensor(self._stored_names.get(name, name))
        return tensor

    def stored(self, name: str) -> None:
        """Nothing is quantized."""

    def notes(self) -> list[str]:
        """One for each reason why tensors are not read."""
        unread: dict[str, list[str]] = {}
        for name, why in self._unread.items():
            unread.setdefault(why, []).append(name)
        return [*self._remarks, *(f"{names[0]} has no effect ({len(names)} such): {why}" for why, names in unread.items())]

    def others(self, names: Collection[str]) -> list[str]:
        return [name for name in self._headers if name not in names and name not in self._unread]


def _no_weights(folder: Path) -> MissingFile | PickleCheckpoint:
    pickles = sorted(path.name for path in folder.glob("*.bin"))
    if not pickles:
        return MissingFile(f"{folder} has neither {_SINGLE} nor {_INDEX}")
    return PickleCheckpoint(
        f"{folder} has its weights as pickle only ({pickles[0]}), which runs code when it is loaded; convert it where you "
        "trust it: AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder)"
    )


def _full_names(names: Iterable[str]) -> dict[str, str]:
    """Stored name -> name in the whole model: a base model saved alone leaves out `model.`, and transformers puts it back."""
    names = list(names)
    is_base = not any(name.startswith("model.") for name in names)
    return {name: f"model.{name}" if is_base and _BASE_MODEL.match(name) else name for name in names}


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
                if entry.get_dtype() not in _DTYPES and not _TABLE.fullmatch(name):
                    raise UnsupportedDtype(
                        f"{name} in {path} has type {entry.get_dtype()}; only {', '.join(_DTYPES)} can be imported"
                    )
                headers[name] = entry.get_dtype(), tuple(entry.get_shape())
    except SafetensorError as error:
        raise DamagedFile(f"{path} is truncated or not safetensors: {error}") from None
    return headers
