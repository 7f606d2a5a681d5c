"""A model in a GGUF file, whatever it was quantized to."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from gguf.constants import GGMLQuantizationType
from gguf.tensor_mapping import TensorNameMap
from numpy.typing import NDArray

from artifacts.architecture import Architecture
from optimizer.formats.stored_matrix import CodeKind, Misfit, StoredMatrix
from optimizer.importers.errors import DamagedFile
from optimizer.importers.gguf_config import LONGROPE_FACTORS, ROPE_FACTORS, family_of, hf_config
from optimizer.importers.gguf_families import GGUF_FAMILIES, GgufFamily, gguf_name, tensor_names
from optimizer.importers.gguf_file import BLOCK, GgufFile
from optimizer.importers.gguf_parts import open_parts
from optimizer.importers.gguf_tokenizer import special_tokens, tokenizer_json, tokenizer_notes
from optimizer.importers.source import Source
from runtime.models import architecture, checkpoint_tensors

_T = TypeVar("_T", bound=np.generic)
_FLOATS = (GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16, GGMLQuantizationType.F64)
_CODES: dict[GGMLQuantizationType, CodeKind] = {
    GGMLQuantizationType.Q4_0: "uint4",
    GGMLQuantizationType.Q8_0: "uint8",
    GGMLQuantizationType.MXFP4: "e2m1",
}


def open_gguf(path: Path) -> Source:
    """The model in `path`, or of which `path` is a part. Raises SourceError and UnsupportedModel."""
    file, files = open_parts(path)
    _check_depth(file)
    described = architecture(hf_config(file))
    return Source(
        architecture=described,
        checkpoint=GgufCheckpoint(file, described, GGUF_FAMILIES[family_of(file)]),
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


@dataclass(frozen=True)
class GgufCheckpoint:
    """Tensors of a GGUF file by their Hugging Face names, as fp32."""

    file: GgufFile
    architecture: Architecture
    family: GgufFamily

    def shape(self, name: str) -> tuple[int, ...] | None:
        stored, rows = self._place(name)
        tensor = self.file.tensors.get(stored)
        return None if tensor is None else (len(range(tensor.shape[0])[rows]), *tensor.shape[1:])

    def is_bf16(self, name: str) -> bool:
        return False  # what the file has in bf16 is widened

    def where(self, name: str) -> str:
        stored, _ = self._place(name)
        tensor = self.file.tensors.get(stored)
        return f"{stored} in {self.file.path if tensor is None else tensor.path}"

    def read(self, name: str) -> torch.Tensor:
        """Gains are whole in the file; what Hugging Face has less is taken off, which undoes the converter's sum exactly."""
        stored, rows = self._place(name)
        values = self._in_order(name, self.file.read(stored)[rows])
        if (added := self._added.get(name)) is not None:
            values -= np.float32(added)
        return torch.from_numpy(values)

    def stored(self, name: str) -> StoredMatrix | Misfit | None:
        stored, rows = self._place(name)
        kind = self.file.tensors[stored].kind
        if kind in _FLOATS:
            return None
        if kind not in _CODES:
            return Misfit(f"codes are {kind.name}")
        codes, scales = self.file.read_codes(stored)
        if not np.isfinite(scales).all():
            return Misfit("a scale is no number")
        return StoredMatrix(_CODES[kind], self._in_order(name, codes[rows]), self._in_order(name, scales[rows]), 1, BLOCK)

    def notes(self) -> list[str]:
        return tokenizer_notes(self.file.metadata)

    def others(self, names: Collection[str]) -> list[str]:
        used = {self._place(name)[0] for name in names} | {ROPE_FACTORS, *LONGROPE_FACTORS.values()}
        return [name for name in self.file.tensors if name not in used]

    def _place(self, name: str) -> tuple[str, slice]:
        """The file's tensor that has `name`, and its rows: a converter may have joined those of q, k and v."""
        stored = gguf_name(self._names, name)
        projection = re.fullmatch(r"(blk\.\d+)\.attn_([qkv])\.(weight|bias)", stored)
        if projection is None or stored in self.file.tensors:
            return stored, slice(None)
        joined = f"{projection[1]}.attn_qkv.{projection[3]}"
        if joined not in self.file.tensors:
            return stored, slice(None)
        a = self.architecture
        sizes = {"q": (0, a.q_size), "k": (a.q_size, a.kv_size), "v": (a.q_size + a.kv_size, a.kv_size)}
        first, size = sizes[projection[2]]
        return joined, slice(first, first + size)

    def _in_order(self, name: str, rows: NDArray[_T]) -> NDArray[_T]:
        """`rows` of the tensor `name` as Hugging Face orders them."""
        if self.family.neighbours_turn:
            if ".q_proj." in name:
                return _unpermute(rows, self.architecture.num_q_heads)
            if ".k_proj." in name:
                return _unpermute(rows, self.architecture.num_kv_heads)
        return rows

    @cached_property
    def _names(self) -> TensorNameMap:
        return tensor_names(self.family.architecture, self.architecture.num_layers)

    @cached_property
    def _added(self) -> dict[str, float]:
        """What Hugging Face's gains have less than the file's."""
        parts = [part for parts in checkpoint_tensors(self.architecture).values() for part in parts]
        return {part.name: part.gain.added for part in parts if part.gain is not None}


def _unpermute(rows: NDArray[_T], num_heads: int) -> NDArray[_T]:
    """Undoes the row order that llama.cpp gives `llama` Q and K, where the two halves of a rotation are neighbours."""
    half = rows.shape[0] // num_heads // 2
    return rows.reshape(num_heads, half, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)
