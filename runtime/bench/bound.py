"""Whether decode is bound by memory or by compute: the roofline of one decode step (Williams et al. 2009). Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from artifacts.architecture import Architecture
from artifacts.kv_cache import layer_kv_bytes
from artifacts.layer_groups import is_table
from artifacts.precision import KvDtype, Scheme
from runtime.attention_flops import attention_flops


@dataclass(frozen=True)
class Peaks:
    """What the device was measured to reach: GB/s (1e9 bytes), and 1e9 operations per second, a multiply-add being two."""

    memory_gbps: float
    float_gflops: float
    int8_gops: float

    @property
    def bf16_gflops(self) -> float:
        """Products of two bf16 numbers. Where there are instructions for them, they do half of what those of bytes do."""
        return max(self.float_gflops, self.int8_gops / 2)


@dataclass(frozen=True)
class DecodeBound:
    """One decode step of a batch: what each of its tokens moves and computes, and how short the whole step can be.

    `memory_ms` and `compute_ms` are lower bounds of the step at the device's peaks, each as if the other cost nothing.
    `balance_batch_size` is where compute overtakes memory at this context; None if it never does, because each sequence's
    own KV reads outweigh its compute.
    """

    batch_size: int
    context_len: int
    bound: Literal["memory", "compute"]
    bytes_per_token: float
    flops_per_token: float
    memory_ms: float
    compute_ms: float
    balance_batch_size: float | None

    @property
    def floor_ms(self) -> float:
        """The bound that binds."""
        return max(self.memory_ms, self.compute_ms)


def decode_bound(
    architecture: Architecture,
    groups: Mapping[str, str],
    kv_cache: KvDtype,
    peaks: Peaks,
    *,
    batch_size: int = 1,
    context_len: int = 1024,
) -> DecodeBound:
    """Bytes and FLOPs of a decode step against `peaks`.

    `groups` maps layer groups to scheme names (`manifest.precision.groups`). All weights are read once per step, except
    embeddings that are no head, of which each token reads one row; every sequence reads its keys and values and writes one
    token's. Groups with integer activations compute at int8_gops, those of 16 bits twice, everything else at float_gflops.
    """
    shared_bytes = sum(4.0 * math.prod(shape) for shape in architecture.float_shapes().values())
    own_bytes = 0.0
    float_flops = int8_flops = 0.0
    for group, (out_features, in_features) in architecture.linear_shapes().items():
        scheme = Scheme.parse(groups[group])
        size_bytes = out_features * in_features * scheme.bits_per_weight / 8
        if is_table(group) and not (group == "embed" and architecture.tie_embeddings):
            own_bytes += size_bytes / out_features
            continue
        shared_bytes += size_bytes
        if scheme.integer_activations:
            int8_flops += (4.0 if scheme.int16_activations else 2.0) * out_features * in_features
        else:
            float_flops += 2.0 * out_features * in_features
    for layer in range(architecture.num_layers):
        seen = min(context_len, architecture.window(layer) or context_len)
        own_bytes += layer_kv_bytes(architecture, kv_cache, layer) * (seen + architecture.owns_cache(layer))
        float_flops += attention_flops(architecture, layer, 1, seen)
    own_memory_s = own_bytes / (peaks.memory_gbps * 1e9)
    shared_memory_s = shared_bytes / (peaks.memory_gbps * 1e9)
    compute_s = float_flops / (peaks.float_gflops * 1e9) + int8_flops / (peaks.int8_gops * 1e9)
    memory_s = shared_memory_s / batch_size + own_memory_s
    return DecodeBound(
        batch_size=batch_size,
        context_len=context_len,
        bound="memory" if memory_s >= compute_s else "compute",
        bytes_per_token=shared_bytes / batch_size + own_bytes,
        flops_per_token=float_flops + int8_flops,
        memory_ms=memory_s * batch_size * 1e3,
        compute_ms=compute_s * batch_size * 1e3,
        balance_batch_size=shared_memory_s / (compute_s - own_memory_s) if compute_s > own_memory_s else None,
    )
