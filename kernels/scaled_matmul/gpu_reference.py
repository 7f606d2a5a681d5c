"""Products of unscaled operands in fp32, or fp64 where the floating inputs are; scales and bias after, rounded once."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.scaled_matmul.packing import MX_SLOTS, SHRINK
from kernels.scaled_matmul.variants import BLOCK_WIDTH

_E2M1 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
#: [half, slot] of a word of MXFP4 codes.
_SIGN_BITS, _REST_BITS = (torch.tensor([bits, [16 + bit for bit in bits]]) for bits in zip(*MX_SLOTS, strict=True))
_BYTES = torch.arange(0, 32, 8)


def gpu_matmul(x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
    if x.dtype == out.dtype == torch.bfloat16 and bias is None:
        # torch's own product: sums in fp32 and rounds once, as the kernel does, without a copy of the weights.
        torch.matmul(x, weight.T, out=out)
        return
    inner = torch.promote_types(x.dtype, torch.float32)
    _finish(x.to(inner) @ weight.to(inner).T, bias, out)


def gpu_scaled_matmul_int8(
    x_codes: Tensor, x_scales: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None, out: Tensor
) -> None:
    inner = torch.promote_types(x_scales.dtype, torch.float32)
    if not out.numel():
        return
    sums = torch._int_mm(x_codes, codes.T)
    _finish(sums.to(inner) * (x_scales[:, None] * scales), bias, out)


def gpu_scaled_matmul_e4m3_tensor(
    x_codes: Tensor, x_scales: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None, out: Tensor
) -> None:
    # One scale for all tokens: as if each had it.
    gpu_scaled_matmul_e4m3(x_codes, x_scales.expand(len(x_codes)), codes, scales, bias, out)


def gpu_scaled_matmul_e4m3(
    x_codes: Tensor, x_scales: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None, out: Tensor
) -> None:
    _finish((x_codes.to(x_scales.dtype) @ codes.to(scales.dtype).T) * (x_scales[:, None] * scales), bias, out)


def gpu_scaled_matmul_e4m3_block(
    x_codes: Tensor, x_scales: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None, out: Tensor
) -> None:
    sums = torch.zeros(out.shape, dtype=scales.dtype)
    channel_scales = scales.repeat_interleave(BLOCK_WIDTH, dim=0)[: codes.shape[0]]
    for block in range(scales.shape[1]):
        part = slice(block * BLOCK_WIDTH, (block + 1) * BLOCK_WIDTH)
        products = x_codes[:, part].to(scales.dtype) @ codes[:, part].to(scales.dtype).T
        sums += products * (x_scales[:, block, None] * channel_scales[:, block])
    _finish(sums, bias, out)


def gpu_scaled_matmul_mxfp4(x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None, out: Tensor) -> None:
    inner = torch.promote_types(x.dtype, torch.float32)
    weight = widened_mxfp4(codes, scales, x.dtype)[: out.shape[1], : x.shape[1]]
    _finish(x.to(inner) @ weight.to(inner).T * SHRINK, bias, out)


def gpu_scaled_matmul_nvfp4(
    x: Tensor, codes: Tensor, scales: Tensor, row_scales: Tensor, bias: Tensor | None, out: Tensor
) -> None:
    inner = torch.promote_types(x.dtype, torch.float32)
    weight = unpacked_nvfp4(codes, scales)[: out.shape[1], : x.shape[1]]
    _finish((x.to(inner) @ weight.to(inner).T) * row_scales, bias, out)


def widened_mxfp4(codes: Tensor, scales: Tensor, act: torch.dtype) -> Tensor:
    """What the matrix units multiply: numbers of `act`, over SHRINK."""
    return (unpacked_mxfp4(codes, scales) / SHRINK).to(act)


def unpacked_mxfp4(codes: Tensor, scales: Tensor) -> Tensor:
    """The fp32 values of a packed matrix, with its padding; the order of the parts is packing.py's."""
    tiles, chunks = codes.shape[:2]
    exponents = _scale_bytes(scales)
    powers = torch.ldexp(torch.ones(exponents.shape), exponents - 127).view(tiles, chunks, 8, 1, 2, 2, 1, 1, 1)
    return _unpacked(codes, powers)


def unpacked_nvfp4(codes: Tensor, scales: Tensor) -> Tensor:
    """The same without the scales of rows: numbers of six significant bits, which every float type here holds."""
    tiles, chunks = codes.shape[:2]
    code = _scale_bytes(scales)
    local = torch.ldexp(1 + code.remainder(8) / 8, code // 8 - 10)
    # [tile, chunk, row % 8, k/16 % 2, k/32, row/8]
    ordered = local.view(tiles, chunks, 8, 2, 2, 2).permute(0, 1, 2, 4, 5, 3)
    return _unpacked(codes, ordered.reshape(tiles, chunks, 8, 1, 2, 2, 1, 2, 1))


def _scale_bytes(words: Tensor) -> Tensor:
    """The bytes of u32 words, the lowest first, along a new axis."""
    return words.view(torch.int32)[..., None].bitwise_right_shift(_BYTES).bitwise_and(255)


def _unpacked(codes: Tensor, scales: Tensor) -> Tensor:
    """Codes times `scales` [tile, chunk, row % 8, 1, k/32, row/8, k % 2, k/16 % 2, k/8 % 2], or what expands to that."""
    tiles, chunks = codes.shape[:2]
    words = codes.view(torch.int32)[..., None, None]
    signs, rest = words.bitwise_right_shift(_SIGN_BITS).bitwise_and(1), words.bitwise_right_shift(_REST_BITS).bitwise_and(7)
    values = (_E2M1[rest] * (1 - 2 * signs)).view(tiles, chunks, 8, 4, 2, 2, 2, 2, 2)
    return (values * scales).permute(0, 5, 2, 1, 4, 7, 8, 3, 6).reshape(tiles * 16, chunks * 64)


def _finish(value: Tensor, bias: Tensor | None, out: Tensor) -> None:
    out.copy_(value if bias is None else value + bias)
