"""The numbers that a scheme lets a weight be, under scales that are already chosen.

Symmetric int4 maps the largest-magnitude element of a group to -8 (the scale takes the opposite sign, as in llama.cpp's
Q4_0) rather than to +-7: on SmolLM2-135M's linear weights taken off their grid, the relative RMS error is 0.114, 0.136
and 0.161 for groups of 32, 64 and 128, against 0.130, 0.155 and 0.183 for absmax / 7. Taking the better of the two for
each group would gain less than 0.5 % more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from artifacts.precision import FP8_BLOCK, Scheme
from kernels.scaled_matmul.packing import (
    E4M3_MAX,
    decode_e2m1,
    decode_e4m3,
    encode_e2m1,
    encode_e4m3,
    mxfp4_scales,
    nvfp4_scales,
    nvfp4_tensor_scale,
    pair_nibbles,
)
from optimizer.quantization.matrix import NonFiniteWeightError, QuantizationError, QuantizedMatrix, WeightRangeError

_E8M0_BIAS = 127
#: of 4 bits: times -8, the lowest code, it is -120
_LARGEST_STEP = 15


@dataclass(frozen=True)
class Grid:
    """Scales of a matrix W[N, K] in a scheme of codes (not fp32 or bf16); codes are rounded to nearest, ties to even.

    A step of zero makes its values zero.
    """

    scheme: Scheme
    scales: Tensor
    """As the scheme stores them."""
    steps: Tensor
    """fp32 [N, K / width]: what the codes of `width` columns are multiplied by."""
    width: int
    zeros: Tensor | None = None
    """u8 [N, K / width], for asymmetric int4."""
    row_scales: Tensor | None = None
    """fp32 [N], for nvfp4 and int4-twolevel; `steps` have it in them."""

    def codes(self, values: Tensor, columns: Tensor) -> Tensor:
        """Logical codes of `values` fp32 [N, C], which stand in `columns` i64 [C] of the matrix: one element each."""
        if len(columns) == self.steps.shape[1] * self.width and torch.equal(columns, torch.arange(len(columns))):
            # All columns in order: those of a group lie side by side, and its step has to be spread over no copy.
            zeros = None if self.zeros is None else self.zeros[:, :, None]
            return self._rounded(values.reshape(len(values), -1, self.width), self.steps[:, :, None], zeros).reshape(
                values.shape
            )
        groups = columns // self.width
        return self._rounded(values, self.steps[:, groups], None if self.zeros is None else self.zeros[:, groups])

    def _rounded(self, values: Tensor, steps: Tensor, zeros: Tensor | None) -> Tensor:
        """Codes of values, to whose shape steps and zeros can be spread."""
        is_zero = steps == 0
        scaled = values / torch.where(is_zero, 1.0, steps)
        if is_zero.any():
            scaled = torch.where(is_zero, 0.0, scaled)
        if self.scheme.weights.startswith("int4"):
            return scaled.round_().add_(8 if zeros is None else zeros).clamp_(0, 15).to(torch.uint8)
        if self.scheme.weights == "int8":
            return scaled.round_().clamp_(-127, 127).to(torch.int8)
        encode = encode_e4m3 if self.scheme.weights == "fp8" else encode_e2m1
        return torch.from_numpy(encode(scaled.numpy()))

    def values(self, codes: Tensor, columns: Tensor) -> Tensor:
        """What `codes` [N, C] in `columns` stand for, fp32: the same as `QuantizedMatrix.dequantize`."""
        groups = columns // self.width
        if self.scheme.weights == "int4-twolevel":
            assert self.row_scales is not None
            return (codes.to(torch.float32) - 8) * self.scales[:, groups] * self.row_scales[:, None]  # one rounding
        if self.scheme.weights == "int4":
            units = codes.to(torch.float32) - (8 if self.zeros is None else self.zeros[:, groups].to(torch.float32))
        elif self.scheme.weights == "int8":
            units = codes.to(torch.float32)
        else:
            decode = decode_e4m3 if self.scheme.weights == "fp8" else decode_e2m1
            units = torch.from_numpy(decode(codes.numpy()))
        return units * self.steps[:, groups]

    def matrix(self, codes: Tensor) -> QuantizedMatrix:
        """The matrix of all logical codes [N, K]."""
        stored = codes.numpy()
        if self.scheme.weights in ("mxfp4", "nvfp4"):
            stored = pair_nibbles(stored)
        zeros = None if self.zeros is None else self.zeros.numpy()
        row_scales = None if self.row_scales is None else self.row_scales.numpy()
        return QuantizedMatrix(self.scheme, stored, self.scales.numpy(), zeros, row_scales)


#: (tensor name, fp32 weight [N, K] or some of its rows, scheme, largest magnitude of the whole) -> grid; QuantizationError.
GridFit = Callable[[str, Tensor, Scheme, float], Grid]


def check_weight(name: str, weight: Tensor, scheme: Scheme) -> None:
    """Raises QuantizationError where `weight` cannot take `scheme`, NonFiniteWeightError where it is damaged."""
    if weight.ndim != 2 or weight.dtype != torch.float32:
        raise QuantizationError(f"{name}: a matrix must be fp32 [N, K], got {weight.dtype} {list(weight.shape)}")
    refusal = scheme.refusal(weight.shape[0], weight.shape[1])
    if refusal is not None:
        raise QuantizationError(f"{name} cannot take {scheme.name}: {refusal}")
    if not torch.isfinite(weight).all():
        num_bad = int((~torch.isfinite(weight)).sum())
        raise NonFiniteWeightError(f"{name}: weights must be finite, got {num_bad} NaN or infinite; the checkpoint is damaged")


def largest_magnitude(weight: Tensor) -> float:
    """max |W|, 0 of an empty matrix: what a scale of the whole tensor is made of."""
    return max(-float(weight.min()), float(weight.max())) if weight.numel() else 0.0


def fit_grid(name: str, weight: Tensor, scheme: Scheme, largest: float | None = None, shrink: Tensor | float = 1.0) -> Grid:
    """The grid that spans the range of `weight` fp32 [N, K], or `shrink` times that range.

    `largest` is the largest magnitude of the matrix where `weight` is some of its rows. `shrink` is a number, or one for each
    scale, fp32 in the shape of the scheme's scales; that of a whole tensor (fp8-tensor's, and nvfp4's fp32 one) is not shrunk.
    Scales are rounded to their stored type. WeightRangeError where an int4 scale overflows fp16.
    """
    largest = largest_magnitude(weight) if largest is None else largest
    if scheme.weights == "int8":
        scales = weight.abs().amax(dim=1) * shrink / 127
        # A subnormal scale is too coarse to divide by, and below what any fp32 sum would notice.
        scales[scales < torch.finfo(torch.float32).smallest_normal] = 0
        return Grid(scheme, scales, scales[:, None], weight.shape[1])
    if scheme.weights == "fp8":
        return _fp8_grid(weight, scheme, largest, shrink)
    grouped = weight.reshape(weight.shape[0], -1, scheme.group_size)
    if scheme.weights == "mxfp4":
        exponents = torch.from_numpy(mxfp4_scales((grouped.abs().amax(dim=2) * shrink).numpy()))
        steps = torch.exp2(exponents.to(torch.float32) - _E8M0_BIAS)
        return Grid(scheme, exponents, steps, scheme.group_size)
    if scheme.weights == "nvfp4":
        tensor_scale = nvfp4_tensor_scale(largest)
        local = nvfp4_scales((grouped.abs().amax(dim=2) * shrink).numpy(), tensor_scale)
        steps = torch.from_numpy(decode_e4m3(local) * tensor_scale)
        rows = torch.full((len(weight),), float(tensor_scale))
        return Grid(scheme, torch.from_numpy(local), steps, scheme.group_size, row_scales=rows)
    if scheme.weights == "int4-twolevel":
        return _two_level_grid(grouped, scheme, shrink)
    highest, lowest = grouped.amax(dim=2) * shrink, grouped.amin(dim=2) * shrink
    if scheme.symmetric:
        scales = _fp16_scales(name, torch.where(highest > -lowest, highest, lowest) / -8)
        return Grid(scheme, scales, scales.to(torch.float32), scheme.group_size)
    highest, lowest = highest.clamp_(min=0), lowest.clamp_(max=0)
    scales = _fp16_scales(name, (highest - lowest) / 15)
    steps = scales.to(torch.float32)
    zeros = torch.where(steps == 0, 0.0, -lowest / torch.where(steps == 0, 1.0, steps)).round_().clamp_(0, 15)
    return Grid(scheme, scales, steps, scheme.group_size, zeros.to(torch.uint8))


def _fp8_grid(weight: Tensor, scheme: Scheme, largest: float, shrink: Tensor | float) -> Grid:
    """The largest magnitude of a tensor, a channel, or a block of 128 x 128, the last of them cut, is e4m3's largest."""
    if scheme.granularity == "tensor":
        scales = torch.full((len(weight),), largest) / E4M3_MAX
        return Grid(scheme, scales, scales[:, None], weight.shape[1])
    if scheme.granularity == "channel":
        scales = weight.abs().amax(dim=1) * shrink / E4M3_MAX
        return Grid(scheme, scales, scales[:, None], weight.shape[1])
    rows, columns = (-(-extent // FP8_BLOCK) * FP8_BLOCK for extent in weight.shape)
    padded = torch.nn.functional.pad(weight, (0, columns - weight.shape[1], 0, rows - weight.shape[0]))
    blocks = padded.reshape(rows // FP8_BLOCK, FP8_BLOCK, columns // FP8_BLOCK, FP8_BLOCK)
    scales = blocks.abs().amax(dim=(1, 3)) * shrink / E4M3_MAX
    return Grid(scheme, scales, scales.repeat_interleave(FP8_BLOCK, 0)[: weight.shape[0]], FP8_BLOCK)


def _two_level_grid(grouped: Tensor, scheme: Scheme, shrink: Tensor | float) -> Grid:
    """Of `grouped` fp32 [N, groups, 16]: the widest group of a row has the largest step, and every other the nearest.

    The range of a group is 15 units of its step, so that either end lies half a unit from a code.
    """
    units = grouped.abs().amax(dim=2) / 7.5
    scales = units.amax(dim=1) / _LARGEST_STEP
    scales[scales < torch.finfo(torch.float32).smallest_normal] = 0
    steps = (units * shrink / torch.where(scales == 0, 1.0, scales)[:, None]).round_().clamp_(1, _LARGEST_STEP)
    return Grid(scheme, steps.to(torch.uint8), steps * scales[:, None], scheme.group_size, row_scales=scales)


def _fp16_scales(name: str, scales: Tensor) -> Tensor:
    rounded = scales.to(torch.float16) + 0.0  # turns -0.0 into 0.0
    if not torch.isfinite(rounded).all():
        raise WeightRangeError(
            f"{name}: an int4 scale must fit fp16 (at most 65504), got {float(scales.abs().max()):.6g}; "
            "use int8 or a float scheme"
        )
    return rounded
