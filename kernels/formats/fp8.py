"""fp8: `codes` u8 [N, K], bit patterns of e4m3; value = scale e4m3(code). Row-major, on GPUs alone.

`scales` f32 is [N], or for fp8-block [N/128, K/128] rounded up. fp8-tensor has `input_scale` f32 [1] too, the calibrated scale
of the activations that meet the matrix.
"""

from __future__ import annotations

import numpy as np

from kernels.formats.format import Decoded, Format, GpuPacking, Parts, kept, kept_of
from kernels.scaled_matmul.packing import decode_e4m3
from kernels.scaled_matmul.variants import BLOCK_WIDTH
from kernels.spec import Tensor

#: the calibrated scale of the activations that meet a matrix
INPUT_SCALE = "input_scale"


def _decode(parts: Parts) -> Decoded:
    units, scales = decode_e4m3(parts["codes"].astype(np.uint8)), parts["scales"]
    if scales.ndim == 1:
        return Decoded(units, row_scales=scales)
    return Decoded(units, group_scales=np.repeat(scales, BLOCK_WIDTH, axis=0)[: len(units)], width=BLOCK_WIDTH)


def _gpu(granularity: str, scales: tuple[str, ...], experts: str | None, *more: Tensor) -> GpuPacking:
    tensors = Tensor("codes", "e4m3", ("N", "K")), Tensor("scales", "f32", scales), *more
    form = f"e4m3{granularity}"
    return GpuPacking(f"fp8{granularity}", tensors, f"gpu_scaled_matmul_{form}", kept, kept_of, form, experts=experts)


FP8 = Format(
    "fp8",
    _decode,
    gpu=(
        _gpu("", ("N",), "e4m3"),
        _gpu("_block", (f"N/{BLOCK_WIDTH}", f"K/{BLOCK_WIDTH}"), "e4m3_block"),
        _gpu("_tensor", ("N",), None, Tensor(INPUT_SCALE, "f32", (1,))),
    ),
)
