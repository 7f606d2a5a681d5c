"""Matrix products over packed weights, in the dtype of x (or of x_scales), fp32 or fp64: one for each layout of weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from kernels.formats.reference import Weights, decoded
from kernels.formats.table import cpu_products


def _float_product(name: str, x: Tensor, bias: Tensor | None, out: Tensor, **tiles: Tensor) -> None:
    weights = decoded(name, tiles, out.shape[1])
    product = x @ weights.rounded_once(x.dtype).T
    _write(out, product if weights.row_scales is None else product * weights.row_scales, bias)


def _integer_product(
    name: str, x_codes: Tensor, x_scales: Tensor, x_sums: Tensor, bias: Tensor | None, out: Tensor, **tiles: Tensor
) -> None:
    if name.endswith("a16"):
        pairs = x_codes.to(torch.int32).reshape(-1, 2, x_codes.shape[1])
        x_codes = 256 * pairs[:, 0] + pairs[:, 1]
    weights = decoded(name, tiles, out.shape[1])
    product = _group_by_group(x_codes, weights, out.dtype)
    _write(out, product * x_scales[:, None], bias)


def _group_by_group(x_codes: Tensor, weights: Weights, dtype: torch.dtype) -> Tensor:
    """Dot products of integers, exact in fp64 (far below 2^53), then times the scales."""
    if weights.group_scales is None:
        dots = x_codes.double() @ weights.units.double().T
        return dots.to(dtype) if weights.row_scales is None else dots.to(dtype) * weights.row_scales
    grouped = -1, weights.group_scales.shape[1], weights.group_size
    dots = torch.einsum("tgk,ngk->tng", x_codes.double().reshape(grouped), weights.units.double().reshape(grouped))
    return (dots.to(dtype) * weights.group_scales.to(dtype)).sum(dim=2)


def _write(out: Tensor, product: Tensor, bias: Tensor | None) -> None:
    out.copy_(product if bias is None else product + bias)


def _reference(name: str) -> Callable[..., None]:
    product = _integer_product if name.endswith(("a8", "a16")) else _float_product
    return lambda **arguments: product(name, **arguments)


def _experts_reference(name: str) -> Callable[..., None]:
    product, rows_per_token = _reference(name), 2 if name.endswith("a16") else 1

    def each_expert(bias: Tensor | None, offsets: Tensor, out: Tensor, **arguments: Tensor) -> None:
        activations = {key: tensor for key, tensor in arguments.items() if key == "x" or key.startswith("x_")}
        every = {key: tensor for key, tensor in arguments.items() if key not in activations}
        for expert, (first, end) in enumerate(zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)):
            rows = {
                key: tensor[first:end] if key == "x_scales" else tensor[first * rows_per_token : end * rows_per_token]
                for key, tensor in activations.items()
            }
            if first < end:
                matrix = {key: tiles[expert] for key, tiles in every.items()}
                product(**rows, **matrix, bias=None if bias is None else bias[expert], out=out[first:end])

    return each_expert


REFERENCES: Mapping[str, Callable[..., None]] = {
    **{f"quant_matmul_{name}": _reference(name) for name in cpu_products()},
    **{f"quant_matmul_experts_{name}": _experts_reference(name) for name in cpu_products()},
}
