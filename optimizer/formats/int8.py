"""int8: symmetric, the largest magnitude of a row is 127."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from artifacts.precision import Scheme
from optimizer.formats.codec import Codec, CompressedTensors, config_group, copied, rounded_inputs, weight_arguments, words
from optimizer.formats.grid import Grid, Integers
from optimizer.formats.matrix import QuantizedMatrix
from optimizer.formats.stored_matrix import MIDDLE, Misfit, StoredMatrix

_NUMBERS = Integers(-127, 127, 0, torch.int8)


def _fit(name: str, weight: Tensor, scheme: Scheme, largest: float, shrink: Tensor | float) -> Grid:
    scales = weight.abs().amax(dim=1) * shrink / 127
    # A subnormal scale is too coarse to divide by, and below what any fp32 sum would notice.
    scales[scales < torch.finfo(torch.float32).smallest_normal] = 0
    return Grid(scheme, _NUMBERS, {"scales": scales}, scales[:, None], weight.shape[1])


def _kept(stored: StoredMatrix, scheme: Scheme) -> QuantizedMatrix | Misfit:
    if misfit := stored.wrong_kind("uint4", "uint8"):
        return misfit
    num_columns = stored.codes.shape[1]
    scales = stored.spread(stored.scales, 1, num_columns)
    zeros = np.array([[MIDDLE[stored.kind]]]) if stored.zeros is None else stored.spread(stored.zeros, 1, num_columns)
    if scales is None or zeros is None:
        return Misfit(f"a scale is for {stored.columns} columns, not for a whole row")
    centred = stored.codes.astype(np.int16) - zeros.astype(np.int16)
    if centred.size and (centred.min() < -128 or centred.max() > 127):
        return Misfit("codes minus their zero points do not fit into int8")
    return QuantizedMatrix(scheme, {"codes": centred.astype(np.int8), "scales": scales[:, 0]})


def _config_group(scheme: Scheme) -> dict[str, object]:
    weights = weight_arguments(8, "int", "channel")
    if scheme.int8_activations:
        return config_group("int-quantized", weights, rounded_inputs("int"))
    return config_group("pack-quantized", weights)


def _tensors(matrix: QuantizedMatrix) -> dict[str, torch.Tensor]:
    scales = copied(matrix.scales)[:, None]
    if matrix.scheme.int8_activations:
        return {"weight": copied(matrix.codes), "weight_scale": scales}
    packed = words(matrix.codes.view(np.uint8) ^ np.uint8(128), 8)
    return {"weight_packed": packed, "weight_scale": scales, "weight_shape": torch.tensor(matrix.shape)}


INT8 = Codec("int8", {"int8": "#3f7fb5"}, CompressedTensors(_config_group, _tensors), gguf="Q8_0", fit=_fit, kept=_kept)
