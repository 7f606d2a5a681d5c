"""How large the KV cache may be on a device."""

from __future__ import annotations

from artifacts.architecture import Architecture
from artifacts.precision import KvDtype

_ELEMENT_BYTES = {"bf16": 2, "int8": 1, "fp8": 1}
_SCALE_BYTES = 4


def kv_block_bytes(architecture: Architecture, kv_dtype: KvDtype, block_size: int) -> int:
    """Bytes that a block takes in the caches of all layers; rounded ones have an fp32 scale for each token and head."""
    if kv_dtype not in _ELEMENT_BYTES:
        raise ValueError(f"a KV cache on a GPU is {', '.join(_ELEMENT_BYTES)}; got {kv_dtype}")
    scales = 0 if kv_dtype == "bf16" else 2 * architecture.num_layers * architecture.num_kv_heads
    return block_size * (architecture.kv_elements_per_token * _ELEMENT_BYTES[kv_dtype] + scales * _SCALE_BYTES)


def affordable_blocks(free_bytes: int, block_bytes: int, reserve_bytes: int, wanted: int, least: int) -> int:
    """Blocks, `wanted` at most, that fit in `free_bytes` with `reserve_bytes` left over; ValueError if fewer than `least`."""
    affordable = max(0, free_bytes - reserve_bytes) // block_bytes
    if affordable < least:
        raise ValueError(
            f"the KV cache needs at least {least} blocks of {block_bytes} bytes to hold one sequence of max_model_len; "
            f"{free_bytes / 2**30:.2f} GiB are free, of which {reserve_bytes / 2**30:.2f} GiB are left for the driver, "
            f"and hold {affordable}; free memory on the device or optimize with a smaller max_model_len"
        )
    return min(wanted, affordable)
