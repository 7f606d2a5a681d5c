"""How many bytes a KV cache takes, by what it is kept in."""

from __future__ import annotations

from collections.abc import Mapping

from artifacts.architecture import Architecture
from artifacts.precision import KvDtype

ELEMENT_BYTES: Mapping[KvDtype, int] = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 1, "fp8": 1}


def scale_bytes(dtype: KvDtype) -> int:
    """Bytes of the scale that each token's key has in each head, and its value another: fp32 where the cache is of codes."""
    return 4 if dtype in ("int8", "fp8") else 0


def kv_bytes_per_token(architecture: Architecture, dtype: KvDtype) -> int:
    """Bytes of a token's keys and values in the caches of all layers, their scales included."""
    layers = range(architecture.num_layers)
    return sum(layer_kv_bytes(architecture, dtype, layer) for layer in layers if architecture.owns_cache(layer))


def layer_kv_bytes(architecture: Architecture, dtype: KvDtype, layer: int) -> int:
    """The same in the cache that `layer` attends to."""
    num_scales = 2 * architecture.layer_shape(layer).num_kv_heads
    return architecture.cached_elements(layer) * ELEMENT_BYTES[dtype] + num_scales * scale_bytes(dtype)
