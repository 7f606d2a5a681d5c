"""The KV cache as CPU kernels lay it out: blocks of `block_size` tokens, a multiple of 16.

fp32, fp16 and int8: k_cache [num_blocks, Hkv, D, block_size], v_cache [num_blocks, Hkv, block_size, D]; int8 with a scale for
each token and kv head; fp16 saturates at its largest number. bf16 lies in pairs, as products of bf16 take their operands: two
dimensions of a key side by side, two tokens of a value, k_cache [num_blocks, Hkv, D/2, block_size, 2], v_cache [num_blocks,
Hkv, block_size/2, D, 2].

Latents (DeepSeek-AI 2024, DeepSeek-V2, 2.1) have one cache: a row [D] of a token is its key for all heads, and in its first
columns its value. It lies as values do with one head, cache [num_blocks, block_size, D], bf16 [num_blocks, block_size/2, D, 2].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kernels.bfloat16 import to_bf16
from kernels.spec import DTYPES, Arguments, Array, Scalar, Tensor, axis_extent

#: what the cache can be kept in -> the dtype of its elements
STORAGE: Mapping[str, str] = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "i8"}

#: what a cache of latents can be kept in
LATENT_STORAGE = ("fp32", "bf16")


def tensors(kv: str, role: Literal["in", "inout"]) -> tuple[Tensor, ...]:
    """The tensors of a cache kept in `kv`, as an op takes them."""
    blocks, dtype = ("num_blocks", "Hkv"), STORAGE[kv]
    if kv == "bf16":
        return (
            Tensor("k_cache", dtype, (*blocks, "D/2", "block_size", 2), role),
            Tensor("v_cache", dtype, (*blocks, "block_size/2", "D", 2), role),
        )
    plain = (
        Tensor("k_cache", dtype, (*blocks, "D", "block_size"), role),
        Tensor("v_cache", dtype, (*blocks, "block_size", "D"), role),
    )
    scales = (Tensor(f"{of}_scales", "f32", (*blocks, "block_size"), role) for of in "kv") if kv == "int8" else ()
    return (*plain, *scales)


def latent_tensor(kv: str, role: Literal["in", "inout"]) -> Tensor:
    """The tensor of a cache of latents kept in `kv`, as an op takes it beside `latent_scalars`."""
    axes = ("num_blocks", "block_pairs", "D", 2) if kv == "bf16" else ("num_blocks", "block_size", "D")
    return Tensor("cache", STORAGE[kv], axes, role)


def latent_scalars(kv: str) -> tuple[Scalar, ...]:
    """What the shape of the cache does not say plainly."""
    return (Scalar("block_size", "i64"),) if kv == "bf16" else ()


def row_bytes(kv: str, head_dim: int) -> int:
    """Bytes of one key, or value, of a head, with its scale."""
    return np.dtype(DTYPES[STORAGE[kv]][0]).itemsize * head_dim + (4 if kv == "int8" else 0)


def empty(
    kv: str,
    num_blocks: int,
    num_kv_heads: int,
    block_size: int,
    head_dim: int,
    zeros: Callable[[tuple[int, ...], str], Array] = np.zeros,
) -> dict[str, Array]:
    """A cache of zeros, by the names of its tensors; `zeros(shape, dtype)` allocates them."""
    sizes = {"num_blocks": num_blocks, "Hkv": num_kv_heads, "block_size": block_size, "D": head_dim}
    return {
        tensor.name: zeros(tuple(axis_extent(axis, sizes) for axis in tensor.axes), DTYPES[tensor.dtype][0])
        for tensor in tensors(kv, "in")
    }


def empty_latents(
    kv: str,
    num_blocks: int,
    block_size: int,
    width: int,
    zeros: Callable[[tuple[int, ...], str], Array] = np.zeros,
) -> Arguments:
    """A cache of zeros for rows of `width`, with its scalars; `zeros(shape, dtype)` allocates it."""
    sizes = {"num_blocks": num_blocks, "block_size": block_size, "block_pairs": block_size // 2, "D": width}
    tensor = latent_tensor(kv, "in")
    cache = zeros(tuple(axis_extent(axis, sizes) for axis in tensor.axes), DTYPES[tensor.dtype][0])
    return {"cache": cache, **{scalar.name: block_size for scalar in latent_scalars(kv)}}


def stored_latents(kv: str, rows: NDArray[np.float32]) -> Arguments:
    """A cache that holds rows [num_blocks, block_size, D], with its scalars."""
    if kv == "fp32":
        return {"cache": rows}
    num_blocks, block_size, d = rows.shape
    return {"cache": to_bf16(rows.reshape(num_blocks, block_size // 2, 2, d).swapaxes(2, 3)), "block_size": block_size}


def stored(kv: str, k: NDArray[np.float32], v: NDArray[np.float32]) -> dict[str, Array]:
    """A cache that holds k and v, each [num_blocks, Hkv, block_size, D]."""
    if kv == "bf16":
        num_blocks, heads, block_size, d = k.shape
        return {
            "k_cache": to_bf16(k.reshape(num_blocks, heads, block_size, d // 2, 2).swapaxes(2, 3)),
            "v_cache": to_bf16(v.reshape(num_blocks, heads, block_size // 2, 2, d).swapaxes(3, 4)),
        }
    if kv == "fp32":
        return {"k_cache": np.ascontiguousarray(k.swapaxes(2, 3)), "v_cache": v}
    if kv == "fp16":
        most = np.finfo(np.float16).max
        k_halves, v_halves = (np.clip(x, -most, most).astype(np.float16) for x in (k, v))
        return {"k_cache": np.ascontiguousarray(k_halves.swapaxes(2, 3)), "v_cache": v_halves}
    k_scales, v_scales = (np.abs(x).max(axis=3) / np.float32(127) for x in (k, v))
    k_codes, v_codes = (np.rint(x / s[..., None]).astype(np.int8) for x, s in ((k, k_scales), (v, v_scales)))
    return {
        "k_cache": np.ascontiguousarray(k_codes.swapaxes(2, 3)),
        "v_cache": v_codes,
        "k_scales": k_scales,
        "v_scales": v_scales,
    }
