"""Quantized activations: in fp32, or in fp64 where x is, with the kernels' roundings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from kernels.quantize_activations.output import PLAIN, QUANTIZED, SCALE_BLOCK, Form

LARGEST = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}
SMALLEST_AMAX = 1e-10


def encode(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x, already divided by its scale, as saturated codes of `dtype`."""
    limit = LARGEST[dtype]
    return (x.round() if dtype == torch.int8 else x).clamp(-limit, limit).to(dtype)


def quantize_rows(x: Tensor, codes: Tensor, scales: Tensor) -> None:
    """x [..., K] in fp32 or fp64 -> codes [..., K], scales [...]."""
    limit = x.new_tensor(LARGEST[codes.dtype])
    amax = x.abs().amax(dim=-1).clamp_min(SMALLEST_AMAX)
    scales.copy_(amax / limit)
    # A number divided by a tensor would be that number times a reciprocal, which rounds twice.
    codes.copy_(encode(x * (limit / amax)[..., None], codes.dtype))


def quantize_blocks(x: Tensor, codes: Tensor, scales: Tensor) -> None:
    """x [T, K] -> codes [T, K], scales [T, K/128]."""
    padded = torch.nn.functional.pad(x, (0, -x.shape[1] % SCALE_BLOCK)).view(len(x), scales.shape[1], SCALE_BLOCK)
    found = torch.empty(padded.shape, dtype=codes.dtype, device=x.device)
    quantize_rows(padded, found, scales)
    codes.copy_(found.flatten(1)[:, : x.shape[1]])


def quantize_with(x: Tensor, codes: Tensor, scale: Tensor) -> None:
    """x [T, K], scale [1] -> codes [T, K]."""
    codes.copy_(encode(x * (torch.ones_like(scale) / scale), codes.dtype))


def _written(form: Form, value: Tensor, outputs: Mapping[str, Tensor]) -> None:
    """`value` into what `form.tensors` lists."""
    if form.scaling == "none":
        outputs["out"].copy_(value)
    elif form.scaling == "tensor":
        quantize_with(value, outputs["codes"], outputs["scale"])
    else:
        quantize = quantize_blocks if form.scaling == "block" else quantize_rows
        quantize(value, outputs["codes"], outputs["scales"])


def in_every_form(
    symbol: str, value: Callable[..., Tensor], forms: Iterable[Form] = (PLAIN, *QUANTIZED)
) -> dict[str, Callable[..., None]]:
    """The reference of each entry point that writes `value`, fp32 or fp64, of its other arguments in one of `forms`."""

    def reference(form: Form) -> Callable[..., None]:
        written = [tensor.name for tensor in form.tensors("K")]

        def write(**arguments: Any) -> None:
            outputs = {name: arguments.pop(name) for name in written}
            _written(form, value(**arguments), outputs)

        return write

    return {f"{symbol}{form.suffix}": reference(form) for form in forms}


def _unrounded(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


REFERENCES = in_every_form("gpu_quantize_activations", _unrounded, QUANTIZED)
