"""fp8: the largest magnitude of a tensor, a channel, or a block of 128 x 128, the last of them cut, is e4m3's largest."""

from __future__ import annotations

import torch
from torch import Tensor

from artifacts.precision import Scheme
from artifacts.weight_formats import FP8_BLOCK
from kernels.scaled_matmul.packing import E4M3_MAX, decode_e4m3, encode_e4m3
from optimizer.formats.codec import Codec, CompressedTensors, config_group, copied, rounded_inputs, weight_arguments
from optimizer.formats.grid import Floats, Grid
from optimizer.formats.matrix import QuantizedMatrix
from optimizer.formats.stored_matrix import Misfit, StoredMatrix

_NUMBERS = Floats(encode_e4m3, decode_e4m3)


def _fit(name: str, weight: Tensor, scheme: Scheme, largest: float, shrink: Tensor | float) -> Grid:
    num_rows, num_columns = weight.shape
    if scheme.granularity != "block":
        by_row = torch.full((num_rows,), largest) if scheme.granularity == "tensor" else weight.abs().amax(dim=1) * shrink
        scales = by_row / E4M3_MAX
        return Grid(scheme, _NUMBERS, {"scales": scales}, scales[:, None], num_columns)
    rows, columns = (-(-extent // FP8_BLOCK) * FP8_BLOCK for extent in weight.shape)
    padded = torch.nn.functional.pad(weight, (0, columns - num_columns, 0, rows - num_rows))
    blocks = padded.reshape(rows // FP8_BLOCK, FP8_BLOCK, columns // FP8_BLOCK, FP8_BLOCK)
    scales = blocks.abs().amax(dim=(1, 3)) * shrink / E4M3_MAX
    return Grid(scheme, _NUMBERS, {"scales": scales}, scales.repeat_interleave(FP8_BLOCK, 0)[:num_rows], FP8_BLOCK)


def _kept(stored: StoredMatrix, scheme: Scheme) -> QuantizedMatrix | Misfit:
    if misfit := stored.wrong_kind("e4m3"):
        return misfit
    by_block = scheme.granularity == "block"
    scales = stored.spread(stored.scales, *((FP8_BLOCK, FP8_BLOCK) if by_block else (1, stored.codes.shape[1])))
    if scales is None or (scheme.granularity == "tensor" and stored.scales.size > 1):
        return Misfit(f"a scale is for {stored.rows} x {stored.columns} weights")
    matrix = QuantizedMatrix(scheme, {"codes": stored.codes, "scales": scales if by_block else scales[:, 0]})
    if not scheme.static_activations:
        return matrix
    if stored.input_scale is None:
        return Misfit("activations have no static scale")
    return matrix.with_part("input_scale", stored.input_scale.reshape(1))


def _config_group(scheme: Scheme) -> dict[str, object]:
    weights, inputs = weight_arguments(8, "float", scheme.granularity), rounded_inputs("float")
    if scheme.granularity == "block":
        weights["block_structure"] = [FP8_BLOCK, FP8_BLOCK]
        inputs = rounded_inputs("float", "group", group_size=FP8_BLOCK)
    elif scheme.static_activations:
        inputs = rounded_inputs("float", "tensor", dynamic=False)
    return config_group("float-quantized", weights, inputs)


def _tensors(matrix: QuantizedMatrix) -> dict[str, torch.Tensor]:
    weight, scales = copied(matrix.codes).view(torch.float8_e4m3fn), copied(matrix.scales)
    if matrix.input_scale is None:
        return {"weight": weight, "weight_scale": scales.reshape(len(scales), -1)}
    assert (scales == scales[0]).all(), "a module is one tensor, which has one scale"
    return {"weight": weight, "weight_scale": scales[:1].clone(), "input_scale": copied(matrix.input_scale)}


FP8 = Codec(
    "fp8",
    {"fp8": "#7a62b8", "fp8-block": "#a95fb0", "fp8-tensor": "#5a4a94"},
    CompressedTensors(_config_group, _tensors),
    fit=_fit,
    kept=_kept,
    onnx=False,
)
