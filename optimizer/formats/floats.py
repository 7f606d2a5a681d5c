"""fp32 and bf16: no codes, no scales."""

from __future__ import annotations

import torch
from torch import Tensor

from optimizer.formats.codec import Codec, CompressedTensors, copied, float_group
from optimizer.formats.matrix import QuantizedMatrix, WeightRangeError


def _round_bf16(name: str, weight: Tensor) -> Tensor:
    rounded = weight.to(torch.bfloat16)
    if not torch.isfinite(rounded).all():
        raise WeightRangeError(
            f"{name}: a bf16 magnitude must be at most {torch.finfo(torch.bfloat16).max:.6g}, "
            f"got {float(weight.abs().max()):.6g}; keep it in fp32"
        )
    return rounded.view(torch.uint16)


def _fp32_tensors(matrix: QuantizedMatrix) -> dict[str, torch.Tensor]:
    return {"weight": copied(matrix.codes)}


def _bf16_tensors(matrix: QuantizedMatrix) -> dict[str, torch.Tensor]:
    return {"weight": copied(matrix.codes).view(torch.bfloat16)}


FP32 = Codec(
    "fp32", {"fp32": "#6f7887"}, CompressedTensors(float_group, _fp32_tensors), gguf="F32", rounded=lambda name, weight: weight
)
BF16 = Codec("bf16", {"bf16": "#a7afbb"}, CompressedTensors(float_group, _bf16_tensors), gguf="BF16", rounded=_round_bf16)
