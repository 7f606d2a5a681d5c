"""mxfp4 and nvfp4: a power of two for every 32 columns; an e4m3 scale for every 16, and one of the tensor."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from artifacts.precision import Scheme
from artifacts.weight_formats import MXFP4_GROUP, NVFP4_GROUP
from kernels.scaled_matmul.packing import (
    Bytes,
    decode_e2m1,
    decode_e4m3,
    encode_e2m1,
    encode_e4m3,
    mxfp4_scales,
    nvfp4_scales,
    nvfp4_tensor_scale,
    pair_nibbles,
)
from kernels.spec import Array
from optimizer.formats.codec import Codec, CompressedTensors, config_group, copied, weight_arguments
from optimizer.formats.grid import Floats, Grid
from optimizer.formats.matrix import QuantizedMatrix
from optimizer.formats.stored_matrix import Misfit, StoredMatrix

_NUMBERS = Floats(encode_e2m1, decode_e2m1)
_E8M0_BIAS = 127
#: the e8m0 code of a scale is this much above its exponent by frexp, whose mantissa is 0.5
_E8M0_OFFSET = 126


def _largest(weight: Tensor, scheme: Scheme, shrink: Tensor | float) -> NDArray[np.float32]:
    """Of each group, [N, K / group_size]."""
    grouped = weight.reshape(weight.shape[0], -1, scheme.group_size)
    found: NDArray[np.float32] = (grouped.abs().amax(dim=2) * shrink).numpy()
    return found


def _fit_mxfp4(name: str, weight: Tensor, scheme: Scheme, largest: float, shrink: Tensor | float) -> Grid:
    exponents = torch.from_numpy(mxfp4_scales(_largest(weight, scheme, shrink)))
    powers = torch.exp2(exponents.to(torch.float32) - _E8M0_BIAS)
    return Grid(scheme, _NUMBERS, {"scales": exponents}, powers, scheme.group_size)


def _fit_nvfp4(name: str, weight: Tensor, scheme: Scheme, largest: float, shrink: Tensor | float) -> Grid:
    tensor_scale = nvfp4_tensor_scale(largest)
    local = nvfp4_scales(_largest(weight, scheme, shrink), tensor_scale)
    parts = {"scales": torch.from_numpy(local), "row_scales": torch.full((len(weight),), float(tensor_scale))}
    return Grid(scheme, _NUMBERS, parts, torch.from_numpy(decode_e4m3(local) * tensor_scale), scheme.group_size)


def _kept_mxfp4(stored: StoredMatrix, scheme: Scheme) -> QuantizedMatrix | Misfit:
    if misfit := stored.wrong_kind("e2m1"):
        return misfit
    scales = stored.spread(stored.scales, 1, MXFP4_GROUP)
    if scales is None:
        return Misfit(f"a scale is for {stored.columns} columns, no multiple of {MXFP4_GROUP}")
    halves, exponents = np.frexp(scales)
    if (halves != 0.5).any():
        return Misfit("scales are not all powers of two")
    e8m0: Bytes = (exponents + _E8M0_OFFSET).astype(np.uint8)
    return QuantizedMatrix(scheme, {"codes": pair_nibbles(stored.codes), "scales": e8m0})


def _kept_nvfp4(stored: StoredMatrix, scheme: Scheme) -> QuantizedMatrix | Misfit:
    if misfit := stored.wrong_kind("e2m1"):
        return misfit
    if stored.tensor_scale is None or stored.columns != NVFP4_GROUP:
        return Misfit(f"a scale is for {stored.columns} columns, not for {NVFP4_GROUP} under one for the tensor")
    if np.signbit(stored.scales).any():
        return Misfit("scales are not all positive")
    rows = np.full(len(stored.codes), stored.tensor_scale, np.float32)
    parts: dict[str, Array] = {"codes": pair_nibbles(stored.codes), "scales": encode_e4m3(stored.scales), "row_scales": rows}
    return QuantizedMatrix(scheme, parts)


def divisor(row_scales: Array) -> np.float32:
    """The number whose reciprocal, rounded, is the scale of an NVFP4 tensor; the nearest where there is none."""
    assert (row_scales == row_scales[0]).all(), "a module is one tensor, which has one scale"
    scale = np.float32(row_scales[0])
    nearest = np.float32(1) / scale
    tried = (nearest, *(np.nextafter(nearest, np.float32(side), dtype=np.float32) for side in (0, np.inf)))
    return next((number for number in tried if np.float32(1) / number == scale), nearest)


def _mxfp4_tensors(matrix: QuantizedMatrix) -> dict[str, torch.Tensor]:
    return {"weight_packed": copied(matrix.codes), "weight_scale": copied(matrix.scales)}


def _nvfp4_tensors(matrix: QuantizedMatrix) -> dict[str, torch.Tensor]:
    tensors = _mxfp4_tensors(matrix)
    global_scale = torch.tensor([float(divisor(matrix.parts["row_scales"]))])
    return tensors | {
        "weight_scale": tensors["weight_scale"].view(torch.float8_e4m3fn), "weight_global_scale": global_scale
    }  # fmt: skip


def _compressed(
    form: str, strategy: str, dtype: str, tensors: Callable[[QuantizedMatrix], dict[str, torch.Tensor]]
) -> CompressedTensors:
    def group(scheme: Scheme) -> dict[str, object]:
        others = {"group_size": scheme.group_size, "scale_dtype": dtype, "zp_dtype": dtype}
        return config_group(form, weight_arguments(4, "float", strategy, **others))

    return CompressedTensors(group, tensors)


MXFP4 = Codec(
    "mxfp4",
    {"mxfp4": "#c9a227"},
    _compressed("mxfp4-pack-quantized", "group", "torch.uint8", _mxfp4_tensors),
    gguf="MXFP4",
    fit=_fit_mxfp4,
    kept=_kept_mxfp4,
    onnx=False,
)
NVFP4 = Codec(
    "nvfp4",
    {"nvfp4": "#8f7a2e"},
    _compressed("nvfp4-pack-quantized", "tensor_group", "torch.float8_e4m3fn", _nvfp4_tensors),
    fit=_fit_nvfp4,
    kept=_kept_nvfp4,
    onnx=False,
)
