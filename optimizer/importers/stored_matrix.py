"""A quantized matrix as a checkpoint stores it, and the schemes that hold it without changing a bit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from artifacts.precision import FP8_BLOCK, MXFP4_GROUP, NVFP4_GROUP, Scheme
from kernels.scaled_matmul.packing import decode_e2m1, decode_e4m3, encode_e4m3, pair_nibbles

_T = TypeVar("_T", bound=np.generic)
CodeKind = Literal["uint4", "uint8", "e4m3", "e2m1"]
#: the zero point of symmetric integer codes
_MIDDLE = {"uint4": 8, "uint8": 128}
#: the e8m0 code of a scale is this much above its exponent by frexp, whose mantissa is 0.5
_E8M0_OFFSET = 126
_SLAB_ELEMENTS = 1 << 18
"""Rows are dequantized a slab at a time: temporaries stay near 4 MB."""


class Codes(NamedTuple):
    """The logical parts of a matrix in some scheme, as optimizer/quantization/matrix.py tabulates them."""

    codes: NDArray[np.generic]
    scales: NDArray[Any]
    zeros: NDArray[np.uint8] | None = None
    row_scales: NDArray[np.float32] | None = None
    input_scale: NDArray[np.float32] | None = None


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
        num_rows, num_columns = self.codes.shape
        groups = np.arange(num_columns) // self.columns if self.groups is None else self.groups
        values = np.empty(self.codes.shape, np.float32)
        step = max(1, _SLAB_ELEMENTS // max(1, num_columns))
        for start in range(0, num_rows, step):
            slab = slice(start, start + step)
            rows = np.arange(start, min(start + step, num_rows)) // self.rows
            if self.kind == "e4m3":
                values[slab] = decode_e4m3(self.codes[slab])
            elif self.kind == "e2m1":
                values[slab] = decode_e2m1(self.codes[slab])
            else:
                values[slab] = self.codes[slab]
                values[slab] -= _MIDDLE[self.kind] if self.zeros is None else self.zeros[rows][:, groups]
            values[slab] *= self.scales[rows][:, groups]
            if self.tensor_scale is not None:
                values[slab] *= self.tensor_scale
        return values

    def in_scheme(self, scheme: Scheme) -> Codes | Misfit:
        """These codes and scales as parts of `scheme`, of the same values bit for bit.

        Smaller groups repeat their scale; larger ones join neighbours of one scale, which formats of small blocks repeat.
        """
        refusal = scheme.refusal(*self.codes.shape)
        if refusal is not None:
            return Misfit(refusal)
        if self.groups is not None:
            return Misfit("neighbouring columns are of different groups (desc_act)")
        if scheme.weights == "int4":
            return self._as_int4(scheme)
        if scheme.weights == "int8":
            return self._as_int8()
        if scheme.weights == "fp8":
            return self._as_fp8(scheme)
        if scheme.weights == "mxfp4":
            return self._as_mxfp4()
        if scheme.weights == "nvfp4":
            return self._as_nvfp4()
        if scheme.weights == "int4-twolevel":
            return Misfit("no checkpoint stores scales in two levels")
        return Misfit(f"{scheme.name} is a float scheme")

    def _as_int4(self, scheme: Scheme) -> Codes | Misfit:
        if self.kind != "uint4":
            return Misfit(f"codes are {self.kind}")
        zeros = np.full(self.scales.shape, _MIDDLE["uint4"], np.uint8) if self.zeros is None else self.zeros
        if scheme.symmetric and (zeros != _MIDDLE["uint4"]).any():
            return Misfit("zero points are not all 8")
        with np.errstate(over="ignore"):
            halves = self.scales.astype(np.float16)
        if not np.array_equal(halves.astype(np.float32), self.scales):
            return Misfit("scales are not all fp16 numbers")
        scales, spread = self._spread(halves, 1, scheme.group_size), self._spread(zeros, 1, scheme.group_size)
        if scales is None or spread is None:
            return Misfit(f"a scale is for {self.columns} columns, no multiple of {scheme.group_size}")
        return Codes(self.codes, scales, None if scheme.symmetric else spread)

    def _as_int8(self) -> Codes | Misfit:
        if self.kind not in _MIDDLE:
            return Misfit(f"codes are {self.kind}")
        scales = self._spread(self.scales, 1, self.codes.shape[1])
        zeros = np.array([[_MIDDLE[self.kind]]]) if self.zeros is None else self._spread(self.zeros, 1, self.codes.shape[1])
        if scales is None or zeros is None:
            return Misfit(f"a scale is for {self.columns} columns, not for a whole row")
        centred = self.codes.astype(np.int16) - zeros.astype(np.int16)
        if centred.size and (centred.min() < -128 or centred.max() > 127):
            return Misfit("codes less their zero points go beyond int8")
        return Codes(centred.astype(np.int8), scales[:, 0])

    def _as_fp8(self, scheme: Scheme) -> Codes | Misfit:
        if self.kind != "e4m3":
            return Misfit(f"codes are {self.kind}")
        by_block = scheme.granularity == "block"
        scales = self._spread(self.scales, *((FP8_BLOCK, FP8_BLOCK) if by_block else (1, self.codes.shape[1])))
        if scales is None or (scheme.granularity == "tensor" and self.scales.size > 1):
            return Misfit(f"a scale is for {self.rows} x {self.columns} weights")
        if not scheme.static_activations:
            return Codes(self.codes, scales if by_block else scales[:, 0])
        if self.input_scale is None:
            return Misfit("activations have no static scale")
        return Codes(self.codes, scales[:, 0], input_scale=self.input_scale.reshape(1))

    def _as_mxfp4(self) -> Codes | Misfit:
        if self.kind != "e2m1":
            return Misfit(f"codes are {self.kind}")
        scales = self._spread(self.scales, 1, MXFP4_GROUP)
        if scales is None:
            return Misfit(f"a scale is for {self.columns} columns, no multiple of {MXFP4_GROUP}")
        halves, exponents = np.frexp(scales)
        if (halves != 0.5).any():
            return Misfit("scales are not all powers of two")
        e8m0 = (exponents + _E8M0_OFFSET).astype(np.uint8)
        return Codes(pair_nibbles(self.codes), e8m0)

    def _as_nvfp4(self) -> Codes | Misfit:
        if self.kind != "e2m1":
            return Misfit(f"codes are {self.kind}")
        if self.tensor_scale is None or self.columns != NVFP4_GROUP:
            return Misfit(f"a scale is for {self.columns} columns, not for {NVFP4_GROUP} under one for the tensor")
        if np.signbit(self.scales).any():
            return Misfit("scales are not all positive")
        rows = np.full(len(self.codes), self.tensor_scale, np.float32)
        return Codes(pair_nibbles(self.codes), encode_e4m3(self.scales), row_scales=rows)

    def _spread(self, values: NDArray[_T], rows: int, columns: int) -> NDArray[_T] | None:
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
