"""A quantized matrix as a checkpoint stores it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from kernels.scaled_matmul.packing import decode_e2m1, decode_e4m3

_T = TypeVar("_T", bound=np.generic)
CodeKind = Literal["uint4", "uint8", "e4m3", "e2m1"]
#: the zero point of symmetric integer codes
MIDDLE = {"uint4": 8, "uint8": 128}
_SLAB_ELEMENTS = 1 << 18
"""Rows are dequantized a slab at a time: temporaries stay near 4 MB."""


@dataclass(frozen=True)
class Misfit:
    """Why stored codes and scales cannot be kept."""

    reason: str


@dataclass(frozen=True)
class StoredMatrix:
    """W[N, K] = scale (code - zero) for integer codes, scale value(code) for float ones; products are rounded once, in fp32.

    codes     u8 [N, K]: unsigned integers, e4m3 bit patterns, or e2m1 ones in the low nibble
    scales    f32 [ceil(N / rows), ceil(K / columns)]: each is of `rows` x `columns` neighbours; wider than stored, same values
    zeros     u8 of the shape of `scales`; None is the middle of the codes' range (and no zero point for float codes)
    groups    i64 [K]: the column of `scales` that column k has, where that is not k // columns
    tensor_scale  what values are multiplied by last, where `scales` are e4m3 numbers (nvfp4): the one product that is rounded
    input_scale   the static scale of activations, where there is one
    """

    kind: CodeKind
    codes: NDArray[np.uint8]
    scales: NDArray[np.float32]
    rows: int
    columns: int
    zeros: NDArray[np.uint8] | None = None
    groups: NDArray[np.int64] | None = None
    tensor_scale: np.float32 | None = None
    input_scale: np.float32 | None = None

    def dequantize(self) -> NDArray[np.float32]:
        """The values, fp32 [N, K]."""
        groups, values = self._groups(), np.empty(self.codes.shape, np.float32)
        for slab, rows, numbers in self._slabs():
            values[slab] = numbers
            values[slab] *= self.scales[rows][:, groups]
            if self.tensor_scale is not None:
                values[slab] *= self.tensor_scale
        return values

    def change(self, scales: NDArray[np.floating]) -> float:
        """||W' - W|| / ||W||, where W' has other `scales`, of the same shape; 0 for a matrix of zeros."""
        groups, difference = self._groups(), np.square(scales.astype(np.float64) - self.scales)
        squares, changed, whole = np.square(self.scales, dtype=np.float64), 0.0, 0.0
        for _, rows, numbers in self._slabs():
            energy = np.square(numbers, dtype=np.float64)
            changed += float((energy * difference[rows][:, groups]).sum())
            whole += float((energy * squares[rows][:, groups]).sum())
        return (changed / whole) ** 0.5 if whole else 0.0

    def _groups(self) -> NDArray[np.int64]:
        """The column of `scales` of each of ours."""
        return np.arange(self.codes.shape[1]) // self.columns if self.groups is None else self.groups

    def _slabs(self) -> Iterator[tuple[slice, NDArray[np.int64], NDArray[np.float32]]]:
        """Some rows, the row of `scales` of each, and what their codes mean before any scale."""
        (num_rows, num_columns), groups = self.codes.shape, self._groups()
        step = max(1, _SLAB_ELEMENTS // max(1, num_columns))
        for start in range(0, num_rows, step):
            slab = slice(start, start + step)
            rows = np.arange(start, min(start + step, num_rows)) // self.rows
            if self.kind == "e4m3":
                numbers = decode_e4m3(self.codes[slab])
            elif self.kind == "e2m1":
                numbers = decode_e2m1(self.codes[slab])
            else:
                numbers = self.codes[slab].astype(np.float32)
                numbers -= MIDDLE[self.kind] if self.zeros is None else self.zeros[rows][:, groups]
            yield slab, rows, numbers

    def reordered(self, order: list[int]) -> StoredMatrix:
        """Its rows in another order; each must have scales of its own."""
        assert self.rows == 1, "rows that share a scale stand together"
        zeros = None if self.zeros is None else self.zeros[order]
        return replace(self, codes=self.codes[order], scales=self.scales[order], zeros=zeros)

    def wrong_kind(self, *kinds: CodeKind) -> Misfit | None:
        """That codes are of none of `kinds`."""
        return None if self.kind in kinds else Misfit(f"codes are {self.kind}")

    def spread(self, values: NDArray[_T], rows: int, columns: int) -> NDArray[_T] | None:
        """`values`, one for each of our groups, as one for each `rows` x `columns`; None where such a part holds several."""
        (num_rows, num_columns), (own_rows, own_columns) = self.codes.shape, (self.rows, self.columns)
        for extent, part, own in ((num_rows, rows, own_rows), (num_columns, columns, own_columns)):
            if own < extent and own % part and part < extent and part % own:
                return None
        row = np.arange(0, num_rows, rows) // own_rows
        column = np.arange(0, num_columns, columns) // own_columns
        found = values[row][:, column]
        part_of_row = np.arange(values.shape[0]) * own_rows // rows
        part_of_column = np.arange(values.shape[1]) * own_columns // columns
        if (found[part_of_row][:, part_of_column] != values).any():
            return None
        return np.ascontiguousarray(found)
