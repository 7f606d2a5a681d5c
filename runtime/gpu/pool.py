"""How large the KV cache may be on a device."""

from __future__ import annotations

from artifacts.architecture import Architecture
from artifacts.errors import UserError
from artifacts.kv_cache import kv_bytes_per_token
from artifacts.precision import KvDtype

#: what GPU kernels can keep it in
KV_DTYPES: tuple[KvDtype, ...] = ("bf16", "fp16", "int8", "fp8")


def kv_block_bytes(architecture: Architecture, kv_dtype: KvDtype, block_size: int) -> int:
    """Bytes that a block takes in the caches of all layers."""
    if kv_dtype not in KV_DTYPES:
        raise UserError(f"a KV cache on a GPU is {', '.join(KV_DTYPES)}; got {kv_dtype}")
    return block_size * kv_bytes_per_token(architecture, kv_dtype)


def affordable_blocks(free_bytes: int, block_bytes: int, reserve_bytes: int, wanted: int, least: int) -> int:
    """Blocks, `wanted` at most, that fit in `free_bytes` with `reserve_bytes` left over; UserError if fewer than `least`."""
    affordable = max(0, free_bytes - reserve_bytes) // block_bytes
    if affordable < least:
        raise UserError(
            f"the KV cache needs at least {least} blocks of {block_bytes} bytes to hold one sequence of max_model_len; "
            f"{free_bytes / 2**30:.2f} GiB are free, of which {reserve_bytes / 2**30:.2f} GiB are left for the driver, "
            f"and hold {affordable}; free memory on the device or optimize with a smaller max_model_len"
        )
    return min(wanted, affordable)
