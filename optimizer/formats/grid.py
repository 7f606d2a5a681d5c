"""The numbers that a scheme lets a weight be, under scales that are already chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from artifacts.precision import Scheme
from kernels.formats.table import FORMATS
from kernels.scaled_matmul.packing import pair_nibbles
from optimizer.formats.matrix import QuantizedMatrix, WeightRangeError


@dataclass(frozen=True)
class Integers:
    """Codes from `lowest` to `highest`, less `zero` or a group's own zero point, in units of a grid's spacing."""

    lowest: int
    highest: int
    zero: int
    dtype: torch.dtype

    def codes(self, scaled: Tensor, zeros: Tensor | None) -> Tensor:
        """Of the nearest numbers, ties to even; overwrites `scaled`. `zeros` can be spread to its shape."""
        return scaled.round_().add_(self.zero if zeros is None else zeros).clamp_(self.lowest, self.highest).to(self.dtype)

    def units(self, codes: Tensor, zeros: Tensor | None) -> Tensor:
        """fp32."""
        return codes.to(torch.float32) - (self.zero if zeros is None else zeros.to(torch.float32))


@dataclass(frozen=True)
class Floats:
    """Codes of a small float type, likewise."""

    encode: Callable[[NDArray[Any]], NDArray[Any]]
    decode: Callable[[NDArray[Any]], NDArray[Any]]

    def codes(self, scaled: Tensor, zeros: Tensor | None) -> Tensor:
        return torch.from_numpy(self.encode(scaled.numpy()))

    def units(self, codes: Tensor, zeros: Tensor | None) -> Tensor:
        return torch.from_numpy(self.decode(codes.numpy()))


@dataclass(frozen=True)
class Grid:
    """Scales of a matrix W[N, K] in a scheme of codes (not fp32 or bf16); codes are rounded to nearest, ties to even.

    A spacing of zero makes its values zero.
    """

    scheme: Scheme
    book: Integers | Floats
    """The numbers that codes stand for, in units of `spacing`."""
    parts: Mapping[str, Tensor]
    """All parts of the matrix but `codes`, as the scheme stores them."""
    spacing: Tensor
    """fp32 [N, K / width]: what the codes of `width` columns are multiplied by."""
    width: int

    def codes(self, values: Tensor, columns: Tensor) -> Tensor:
        """Logical codes of `values` fp32 [N, C], which stand in `columns` i64 [C] of the matrix: one element each."""
        zeros = self.parts.get("zeros")
        if len(columns) == self.spacing.shape[1] * self.width and torch.equal(columns, torch.arange(len(columns))):
            # All columns in order: those of a group lie side by side, and its spacing has to be spread over no copy.
            grouped = values.reshape(len(values), -1, self.width)
            return self._rounded(grouped, self.spacing[:, :, None], None if zeros is None else zeros[:, :, None]).reshape(
                values.shape
            )
        groups = columns // self.width
        return self._rounded(values, self.spacing[:, groups], None if zeros is None else zeros[:, groups])

    def _rounded(self, values: Tensor, spacing: Tensor, zeros: Tensor | None) -> Tensor:
        """Codes of values, to whose shape spacing and zeros can be spread."""
        is_zero = spacing == 0
        scaled = values / torch.where(is_zero, 1.0, spacing)
        if is_zero.any():
            scaled = torch.where(is_zero, 0.0, scaled)
        return self.book.codes(scaled, zeros)

    def values(self, codes: Tensor, columns: Tensor) -> Tensor:
        """What `codes` [N, C] in `columns` stand for, fp32: the same as `QuantizedMatrix.dequantize`."""
        groups = columns // self.width
        zeros = self.parts.get("zeros")
        units = self.book.units(codes, None if zeros is None else zeros[:, groups])
        if "steps" in self.parts:  # integers, and one rounding
            return units * self.parts["steps"][:, groups] * self.parts["scales"][:, None]
        return units * self.spacing[:, groups]

    def matrix(self, codes: Tensor) -> QuantizedMatrix:
        """The matrix of all logical codes [N, K]."""
        stored = codes.numpy()
        if FORMATS[self.scheme.weights].codes_per_byte == 2:
            stored = pair_nibbles(stored)
        return QuantizedMatrix(self.scheme, {"codes": stored} | {name: part.numpy() for name, part in self.parts.items()})


def fp16_scales(name: str, scales: Tensor, weights: str) -> Tensor:
    """Rounded to fp16. WeightRangeError where one overflows."""
    rounded = scales.to(torch.float16) + 0.0  # turns -0.0 into 0.0
    if not torch.isfinite(rounded).all():
        raise WeightRangeError(
            f"{name}: an {weights} scale must fit fp16 (at most 65504), got {float(scales.abs().max()):.6g}; "
            "use int8 or a float scheme"
        )
    return rounded
