"""Where a bundle's values stand in a GGUF file: names, the order of rows, whole gains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from gguf.tensor_mapping import TensorNameMap
from numpy.typing import NDArray

from artifacts.architecture import Architecture
from artifacts.layer_groups import is_of_experts, kind_of
from kernels.spec import Array
from optimizer.importers.gguf_families import GgufFamily, gguf_name, tensor_names
from optimizer.importers.gguf_places import apart
from runtime.models import Part, checkpoint_tensors
from runtime.models.stored_rows import Gain, HeadOrder

#: a quotient of fp32 is that of a product within so many units in the last place
_UNITS = (0, 1, -1, 2, -2)
_UP = {"k_up": "attn_k_b", "v_up": "attn_v_b"}
_OF_EXPERTS = {"experts_gate_up": ("ffn_gate_exps", "ffn_up_exps"), "experts_down": ("ffn_down_exps",)}


@dataclass(frozen=True)
class Slot:
    """A tensor of the file: `rows` of a layer group's matrix, from and to, of one matrix or of each expert's."""

    name: str
    rows: tuple[tuple[int, int], ...]
    part: str | None = None
    """Hugging Face's name; None for experts."""

    def shape(self, num_columns: int) -> tuple[int, ...]:
        (first, last), *_ = self.rows
        return (last - first, num_columns) if self.part else (len(self.rows), last - first, num_columns)


@dataclass(frozen=True)
class GgufLayout:
    """Of the tensors of `architecture`, by the names that Hugging Face's checkpoints give them."""

    architecture: Architecture
    family: GgufFamily

    def slots(self, group: str) -> list[Slot]:
        """The file's tensors of a layer group's matrix."""
        if is_of_experts(group):
            return self._of_experts(group)
        found, first = [], 0
        for part in checkpoint_tensors(self.architecture)[f"{group}.weight"]:
            names = apart(part.name) or (self.name(part.name),)
            size = part.shape[0] // len(names)
            for name in names:
                found.append(Slot(name, ((first, first + size),), part.name))
                first += size
        return found

    def _of_experts(self, group: str) -> list[Slot]:
        """Here each expert's rows of gate stand before those of up, whatever a checkpoint's tensors are."""
        assert self.architecture.moe is not None
        num_experts, kind = self.architecture.moe.num_experts, kind_of(group)
        names = ("ffn_gate_up_exps",) if self.family.joined_experts and kind == "experts_gate_up" else _OF_EXPERTS[kind]
        size = self.architecture.linear_shapes()[group][0] // num_experts // len(names)
        starts = range(0, num_experts * len(names) * size, len(names) * size)
        layer = group.split(".")[1]
        return [
            Slot(f"blk.{layer}.{name}.weight", tuple((start + i * size, start + (i + 1) * size) for start in starts))
            for i, name in enumerate(names)
        ]

    def name(self, name: str) -> str:
        return gguf_name(self._names, name)

    def floats(self, name: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """A gain or bias as the file has it."""
        gain = self._parts[name].gain
        whole = values if gain is None else whole_gain(gain, values)
        return self.rows(name, whole).astype(np.float32, copy=False)

    def others(self, tensors: Mapping[str, Array]) -> dict[str, NDArray[np.float32]]:
        """Of a bundle's float `tensors` those that are no gain or bias of one matrix: biases of experts, what makes keys and
        values of latents."""
        found: dict[str, NDArray[np.float32]] = {}
        for name in self.architecture.float_shapes():
            *_, layer, last, _ = ("", *name.split("."))
            if last in _UP:
                found[f"blk.{layer}.{_UP[last]}.weight"] = np.ascontiguousarray(tensors[name].swapaxes(1, 2))
            elif last in _OF_EXPERTS:
                assert self.architecture.moe is not None
                biases = tensors[name].reshape(self.architecture.moe.num_experts, len(_OF_EXPERTS[last]), -1)
                for i, of in enumerate(_OF_EXPERTS[last]):
                    found[f"blk.{layer}.{of}.bias"] = np.ascontiguousarray(biases[:, i])
        return found

    def rows(self, name: str, rows: Array) -> Array:
        """`rows` [N, ...] of a bundle in the file's order; of a packed matrix, too."""
        order = self._parts[name].rows
        stored = rows if not isinstance(order, HeadOrder) else _unordered(order, rows)
        projection = name.split(".")[-2]
        if not self.family.neighbours_turn or projection not in ("q_proj", "k_proj"):
            return np.ascontiguousarray(stored)
        a = self.architecture
        heads = a.num_q_heads if projection == "q_proj" else a.num_kv_heads
        halves = stored.reshape(heads, 2, a.head_dim // 2, *stored.shape[1:])
        return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(stored.shape)

    @cached_property
    def _names(self) -> TensorNameMap:
        return tensor_names(self.family.architecture, self.architecture.num_layers)

    @cached_property
    def _parts(self) -> dict[str, Part]:
        return {part.name: part for parts in checkpoint_tensors(self.architecture).values() for part in parts}


def whole_gain(gain: Gain, meant: NDArray[np.float32]) -> NDArray[np.float32]:
    """The stored gain with what is added to it, of which `gain` makes `meant` again, bit for bit where such a number exists."""
    added, divisor = np.float32(gain.added), np.float32(gain.divisor)
    nearest = meant * divisor
    whole = nearest.copy()
    unsure = np.ones(meant.shape, dtype=bool)
    for units in _UNITS:
        tried = nearest
        for _ in range(abs(units)):
            tried = np.nextafter(tried, np.float32(np.copysign(np.inf, units)))
        found = unsure & (((tried - added) + added) / divisor == meant)
        whole[found] = tried[found]
        unsure &= ~found
    return whole


def _unordered(order: HeadOrder, rows: Array) -> Array:
    """What `order` takes `rows` from."""
    stored, length = rows.copy(), len(order.order)
    heads = np.arange(order.num_heads)[:, None] * length
    stored[(heads + np.asarray(order.order)).ravel()] = rows[: order.num_heads * length]
    return stored
