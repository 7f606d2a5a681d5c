"""A model in a GGUF file, whatever it was quantized to."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from artifacts.architecture import Architecture
from optimizer.formats.stored_matrix import Misfit, StoredMatrix
from optimizer.importers.errors import DamagedFile
from optimizer.importers.gguf_config import LONGROPE_FACTORS, ROPE_FACTORS, family_of, hf_config
from optimizer.importers.gguf_families import GGUF_FAMILIES, GgufFamily
from optimizer.importers.gguf_file import GgufFile
from optimizer.importers.gguf_parts import open_parts
from optimizer.importers.gguf_places import Places
from optimizer.importers.gguf_tokenizer import special_tokens, tokenizer_json, tokenizer_notes
from optimizer.importers.source import Source
from runtime.models import UnsupportedModel, architecture, checkpoint_tensors

_T = TypeVar("_T", bound=np.generic)


def open_gguf(path: Path) -> Source:
    """The model in `path`, or of which `path` is a part. Raises SourceError and UnsupportedModel."""
    file, files = open_parts(path)
    _check_depth(file)
    described = architecture(hf_config(file))
    family = GGUF_FAMILIES[family_of(file)]
    _check_experts(file, described, family)
    return Source(
        architecture=described,
        checkpoint=GgufCheckpoint(file, described, family),
        tokenizer_json=tokenizer_json(file.metadata),
        chat_template=file.metadata.get("tokenizer.chat_template"),
        generation_config=special_tokens(file.metadata),
        files=files,
    )


def _check_depth(file: GgufFile) -> None:
    """A damaged number of layers is found before lists are as long."""
    key = f"{file.metadata.get('general.architecture')}.block_count"
    depth = file.metadata.get(key, 0)
    if not isinstance(depth, int) or depth > len(file.tensors):
        raise DamagedFile(f"{file.path}: {key} must be at most the number of tensors, {len(file.tensors)}, got {depth!r}")


def _check_experts(file: GgufFile, described: Architecture, family: GgufFamily) -> None:
    """Experts stand in three tensors of a layer, or two, as many as the file says. UnsupportedModel, DamagedFile."""
    others = "gate\\.0" if family.joined_experts else "gate\\.0|gate_up_exps"
    for name, tensor in file.tensors.items():
        if described.moe and (other := re.fullmatch(rf"blk\.\d+\.ffn_({others})\.weight", name)):
            which = "a tensor for each expert" if other[1] == "gate.0" else "gate and up of its experts in one tensor"
            raise UnsupportedModel(f"{tensor.path} has {which} ({name}); convert it again, to ffn_gate_exps and ffn_up_exps")
        if described.moe and "_exps." in name and tensor.shape[0] != described.moe.num_experts:
            raise DamagedFile(
                f"{name} in {tensor.path} must have as many matrices as there are experts, {described.moe.num_experts}, "
                f"and has shape {list(tensor.shape)}"
            )


@dataclass(frozen=True)
class GgufCheckpoint:
    """Tensors of a GGUF file by their Hugging Face names, as fp32."""

    file: GgufFile
    architecture: Architecture
    family: GgufFamily

    def shape(self, name: str) -> tuple[int, ...] | None:
        return self._places[name].shape(self.file)

    def is_bf16(self, name: str) -> bool:
        return False  # what the file has in bf16 is widened

    def where(self, name: str) -> str:
        tensors = self._places[name].tensors
        found = self.file.tensors.get(tensors[0])
        return f"{' with '.join(tensors)} in {self.file.path if found is None else found.path}"

    def read(self, name: str) -> torch.Tensor:
        """Gains are whole in the file; what Hugging Face has less is taken off, which undoes the converter's sum exactly."""
        values = self._in_order(name, self._places[name].read(self.file))
        if (added := self._added.get(name)) is not None:
            values -= np.float32(added)
        return torch.from_numpy(values)

    def stored(self, name: str) -> StoredMatrix | Misfit | None:
        found = self._places[name].stored(self.file)
        if not isinstance(found, StoredMatrix):
            return found
        return replace(found, codes=self._in_order(name, found.codes), scales=self._in_order(name, found.scales))

    def notes(self) -> list[str]:
        rounded = self.family.rounds_yarn and self.architecture.rope.scaling == "yarn"
        note = "positions turn as llama.cpp has them: yarn's bounds are rounded, and in the published model they are not"
        notes = [*tokenizer_notes(self.file.metadata), *([note] if rounded else [])]
        if self._without_effect:
            notes.append(
                f"not read: {', '.join(self._without_effect[:3])} and the like; these layers read other layers' caches"
            )
        return notes

    def others(self, names: Collection[str]) -> list[str]:
        used = {tensor for name in names for tensor in self._places[name].tensors} | {ROPE_FACTORS, *LONGROPE_FACTORS.values()}
        return [name for name in self.file.tensors if name not in used and name not in self._without_effect]

    @cached_property
    def _without_effect(self) -> list[str]:
        """Keys and values of layers that read other layers' caches, which published checkpoints may still have."""
        found = ((name, re.fullmatch(r"blk\.(\d+)\.attn_[kv](_norm)?\.weight", name)) for name in self.file.tensors)
        return [name for name, of in found if of and not self.architecture.owns_cache(int(of[1]))]

    def _in_order(self, name: str, rows: NDArray[_T]) -> NDArray[_T]:
        """`rows` of the tensor `name` as Hugging Face orders them."""
        if self.family.neighbours_turn:
            if ".q_proj." in name:
                return _unpermute(rows, self.architecture.num_q_heads)
            if ".k_proj." in name:
                return _unpermute(rows, self.architecture.num_kv_heads)
        return rows

    @cached_property
    def _places(self) -> Places:
        return Places(self.architecture, self.family, self.file.tensors)

    @cached_property
    def _added(self) -> dict[str, float]:
        """What Hugging Face's gains have less than the file's."""
        parts = [part for parts in checkpoint_tensors(self.architecture).values() for part in parts]
        return {part.name: part.gain.added for part in parts if part.gain is not None}


def _unpermute(rows: NDArray[_T], num_heads: int) -> NDArray[_T]:
    """Undoes the row order that llama.cpp gives `llama` Q and K, where the two halves of a rotation are neighbours."""
    half = rows.shape[0] // num_heads // 2
    return rows.reshape(num_heads, half, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)
