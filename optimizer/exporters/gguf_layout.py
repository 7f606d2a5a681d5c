"""Where a bundle's values stand in a GGUF file: names, the order of rows, whole gains."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from gguf.tensor_mapping import TensorNameMap
from numpy.typing import NDArray

from artifacts.architecture import Architecture
from kernels.spec import Array
from optimizer.importers.gguf_families import GgufFamily, gguf_name, tensor_names
from runtime.models import Part, checkpoint_tensors
from runtime.models.stored_rows import Gain, HeadOrder

#: a quotient of fp32 is that of a product within so many units in the last place
_UNITS = (0, 1, -1, 2, -2)


@dataclass(frozen=True)
class GgufLayout:
    """Of the tensors of `architecture`, by the names that Hugging Face's checkpoints give them."""

    architecture: Architecture
    family: GgufFamily

    def name(self, name: str) -> str:
        return gguf_name(self._names, name)

    def floats(self, name: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """A gain or bias as the file has it."""
        gain = self._parts[name].gain
        whole = values if gain is None else whole_gain(gain, values)
        return self.rows(name, whole).astype(np.float32, copy=False)

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
