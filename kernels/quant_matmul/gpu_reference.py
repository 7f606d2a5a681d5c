"""Weight-only quantized matrix products in fp32, or in fp64 where x is: no weight is rounded, the sum is, once.

That is what the kernels compute: codes are exact in the activation dtype, and scales meet the sums in fp32.
"""

from __future__ import annotations

import torch
from torch import Tensor


def _int4_codes(words: Tensor) -> Tensor:
    """u32 [N/16, K/64, 128] -> i32 [N, K], padding included."""
    tiles, chunks, _ = words.shape
    shifts = torch.arange(0, 32, 4, dtype=torch.int32).view(2, 4)
    # tile, chunk, row % 8, k / 2 % 4, k / 32 % 2, row / 8, then k % 2 and k / 8 % 4 within the word
    nibbles = (words.view(torch.int32).view(tiles, chunks, 8, 4, 2, 2, 1, 1) >> shifts) & 15
    return nibbles.permute(0, 5, 2, 1, 4, 7, 3, 6).reshape(tiles * 16, chunks * 64)


def _by_row(pairs: Tensor) -> Tensor:
    """[N/16, groups, 16] -> [N, groups], padding included."""
    tiles, groups, _ = pairs.shape
    return pairs.view(tiles, groups, 8, 2).permute(0, 3, 2, 1).reshape(tiles * 16, groups)


def _write(out: Tensor, product: Tensor, bias: Tensor | None) -> None:
    out.copy_(product if bias is None else product + bias)


def int4_values(codes: Tensor, scales: Tensor, zeros: Tensor | None, n: int, k: int, inner: torch.dtype) -> Tensor:
    """The matrix [n, k] in `inner`, fp32 or wider: exact."""
    groups = scales.shape[1]
    centred = _int4_codes(codes)[:n, :k].view(n, groups, k // groups)
    zero = 8 if zeros is None else _by_row(zeros.view(torch.int16))[:n, :, None]
    weight = (centred - zero).to(inner) * _by_row(scales)[:n, :, None]
    return weight.view(n, k)


def _int4(x: Tensor, codes: Tensor, scales: Tensor, zeros: Tensor | None, bias: Tensor | None, out: Tensor) -> None:
    inner = torch.promote_types(x.dtype, torch.float32)
    weight = int4_values(codes, scales, zeros, out.shape[1], x.shape[1], inner)
    _write(out, x.to(inner) @ weight.T, bias)


def gpu_quant_matmul_int8(x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None, out: Tensor) -> None:
    inner = torch.promote_types(x.dtype, torch.float32)
    _write(out, (x.to(inner) @ codes.to(inner).T) * scales, bias)


def gpu_quant_matmul_int4_sym(x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None, out: Tensor) -> None:
    _int4(x, codes, scales, None, bias, out)


def gpu_quant_matmul_int4_asym(
    x: Tensor, codes: Tensor, scales: Tensor, zeros: Tensor, bias: Tensor | None, out: Tensor
) -> None:
    _int4(x, codes, scales, zeros, bias, out)
