"""Where a GGUF file has what Hugging Face calls one tensor: by itself, as rows or a matrix of a larger one, or in several."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

import numpy as np
from gguf.constants import GGMLQuantizationType
from gguf.tensor_mapping import TensorNameMap
from numpy.typing import NDArray

from artifacts.architecture import Architecture
from optimizer.formats.stored_matrix import CodeKind, Misfit, StoredMatrix
from optimizer.importers.errors import ShapeMismatch
from optimizer.importers.gguf_families import GgufFamily, gguf_name, tensor_names
from optimizer.importers.gguf_file import BLOCK, GgufFile

_T = TypeVar("_T", bound=np.generic)
_FLOATS = (GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16, GGMLQuantizationType.F64)
_CODES: dict[GGMLQuantizationType, CodeKind] = {
    GGMLQuantizationType.Q4_0: "uint4",
    GGMLQuantizationType.Q8_0: "uint8",
    GGMLQuantizationType.MXFP4: "e2m1",
}
#: one tensor of Hugging Face's -> the file's, of which the rows of the first come before those of the second, matrix by matrix
_APART = {
    "block_sparse_moe.input_linear.weight": ("ffn_gate_exps.weight", "ffn_up_exps.weight"),
    "shared_mlp.input_linear.weight": ("ffn_gate_shexp.weight", "ffn_up_shexp.weight"),
}
#: likewise of gpt-oss, which has the rows of gate and up by turns
_BY_TURNS = {
    "mlp.experts.gate_up_proj": ("ffn_gate_exps.weight", "ffn_up_exps.weight"),
    "mlp.experts.gate_up_proj_bias": ("ffn_gate_exps.bias", "ffn_up_exps.bias"),
    "mlp.experts.down_proj": ("ffn_down_exps.weight",),
    "mlp.experts.down_proj_bias": ("ffn_down_exps.bias",),
}


def apart(name: str) -> tuple[str, ...] | None:
    """The file's tensors of one of Hugging Face's, each with as many of its rows; None where it is one, or a part of one."""
    return _of_layer(name, _APART)


def _of_layer(name: str, table: Mapping[str, tuple[str, ...]]) -> tuple[str, ...] | None:
    layer = re.match(r"model\.layers\.(\d+)\.", name)
    found = table.get(name[layer.end() :]) if layer else None
    return tuple(f"blk.{layer[1]}.{tensor}" for tensor in found) if layer and found else None


@dataclass(frozen=True)
class Place:
    """`tensors` of the file, of each of which `chosen` is meant along its outermost axis: experts or rows."""

    tensors: tuple[str, ...]
    chosen: slice = field(default_factory=lambda: slice(None))
    is_expert: bool = False
    """Whether it is the one matrix that is chosen of each."""

    def shape(self, file: GgufFile) -> tuple[int, ...] | None:
        """None if one of `tensors` is not there, ShapeMismatch if their matrices do not stand above each other."""
        if any(tensor not in file.tensors for tensor in self.tensors):
            return None
        shapes = [file.tensors[tensor].shape for tensor in self.tensors]
        if len({(*shape[:-2], shape[-1]) for shape in shapes}) > 1:
            raise ShapeMismatch(
                f"{' and '.join(self.tensors)} in {file.path} must differ in rows alone, and have shapes "
                f"{' and '.join(str(list(shape)) for shape in shapes)}"
            )
        first = shapes[0]
        chosen = (len(range(first[0])[self.chosen]), *first[1:])
        if len(shapes) > 1:
            chosen = (*chosen[:-2], sum(shape[-2] for shape in shapes), chosen[-1])
        return chosen[1:] if self.is_expert else chosen

    def read(self, file: GgufFile) -> NDArray[np.float32]:
        """The values."""
        joined = self._joined([file.read(tensor, self.chosen) for tensor in self.tensors])
        return joined[0] if self.is_expert else joined

    def _joined(self, arrays: list[NDArray[_T]]) -> NDArray[_T]:
        return arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=-2)

    def stored(self, file: GgufFile) -> StoredMatrix | Misfit | None:
        """The codes of all matrices, one behind the other, as `Checkpoint.stored` gives them."""
        kinds = {file.tensors[tensor].kind for tensor in self.tensors}
        if kinds <= set(_FLOATS):
            return None
        if len(kinds) > 1:
            return Misfit(f"{' and '.join(self.tensors)} are stored in different types")
        (kind,) = kinds
        if kind not in _CODES:
            return Misfit(f"codes are {kind.name}")
        read = [file.read_codes(tensor, self.chosen) for tensor in self.tensors]
        codes, scales = self._joined([codes for codes, _ in read]), self._joined([scales for _, scales in read])
        if not np.isfinite(scales).all():
            return Misfit("a scale is no number")
        rows = math.prod(codes.shape[:-1])
        return StoredMatrix(_CODES[kind], codes.reshape(rows, -1), scales.reshape(rows, -1), 1, BLOCK)


@dataclass(frozen=True)
class PlaceByTurns(Place):
    """Matrices of experts that Hugging Face has as [experts, K, N], or biases [experts, N]: by turns a row of each tensor."""

    def shape(self, file: GgufFile) -> tuple[int, ...] | None:
        if any(tensor not in file.tensors for tensor in self.tensors):
            return None
        shapes = [file.tensors[tensor].shape for tensor in self.tensors]
        if len(set(shapes)) > 1 or len(shapes[0]) < 2:
            raise ShapeMismatch(
                f"{' and '.join(self.tensors)} in {file.path} must have one shape, of all experts, got "
                f"{' and '.join(str(list(shape)) for shape in shapes)}"
            )
        experts, rows, *columns = shapes[0]
        return experts, *columns, rows * len(shapes)

    def read(self, file: GgufFile) -> NDArray[np.float32]:
        """The values."""
        values = self._joined([file.read(tensor) for tensor in self.tensors])
        return np.ascontiguousarray(values.swapaxes(1, -1))

    def _joined(self, arrays: list[NDArray[_T]]) -> NDArray[_T]:
        stacked = np.stack(arrays, axis=2)
        return stacked.reshape(len(stacked), -1, *stacked.shape[3:])


@dataclass(frozen=True)
class LatentPlace(Place):
    """What makes keys and values of a latent, head by head: keys' [heads, rank, n], and values' [heads, n, rank]."""

    def shape(self, file: GgufFile) -> tuple[int, ...] | None:
        """Of one matrix."""
        if any(tensor not in file.tensors for tensor in self.tensors):
            return None
        keys, values = (file.tensors[tensor].shape for tensor in self.tensors)
        if len(keys) != 3 or len(values) != 3 or keys[:2] != values[::2]:
            raise ShapeMismatch(
                f"{' and '.join(self.tensors)} in {file.path} must have shapes [heads, rank, n] and [heads, n, rank], got "
                f"{list(keys)} and {list(values)}"
            )
        return keys[0] * (keys[2] + values[1]), keys[1]

    def read(self, file: GgufFile) -> NDArray[np.float32]:
        """The values."""
        keys, values = (file.read(tensor) for tensor in self.tensors)
        return np.concatenate((keys.swapaxes(1, 2), values), axis=1).reshape(-1, values.shape[2])


@dataclass(frozen=True)
class Places:
    """Of the tensors of `architecture`, by their Hugging Face names, in a file that has the tensors `stored`."""

    architecture: Architecture
    family: GgufFamily
    stored: Collection[str]

    def __getitem__(self, name: str) -> Place:
        if tensors := apart(name):
            return Place(tensors)
        if tensors := _of_layer(name, _BY_TURNS):
            return PlaceByTurns(tensors)
        if expert := re.fullmatch(r"(.*\.experts)\.(\d+)\.(\w+\.weight)", name):
            first = int(expert[2])
            return Place((gguf_name(self._names, f"{expert[1]}.{expert[3]}"),), slice(first, first + 1), is_expert=True)
        stored = gguf_name(self._names, name)
        if stored.endswith(".ffn_gate_up_exps.weight") and stored not in self.stored:
            return Place(tuple(stored.replace("_gate_up_", part) for part in ("_gate_", "_up_")))
        if stored.endswith(".attn_kv_b.weight") and stored not in self.stored:
            return LatentPlace(tuple(stored.replace("_kv_b", part) for part in ("_k_b", "_v_b")))
        return self._rows(stored)

    def _rows(self, stored: str) -> Place:
        """A converter may have joined rows of q, k and v."""
        projection = re.fullmatch(r"(blk\.(\d+))\.attn_([qkv])\.(weight|bias)", stored)
        if projection is None or stored in self.stored:
            return Place((stored,))
        joined = f"{projection[1]}.attn_qkv.{projection[4]}"
        if joined not in self.stored:
            return Place((stored,))
        shape = self.architecture.layer_shape(int(projection[2]))
        q, kv = shape.q_size, shape.kv_size
        first, size = {"q": (0, q), "k": (q, kv), "v": (q + kv, kv)}[projection[3]]
        return Place((joined,), slice(first, first + size))

    @cached_property
    def _names(self) -> TensorNameMap:
        return tensor_names(self.family.architecture, self.architecture.num_layers)
