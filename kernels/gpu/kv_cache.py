"""The KV cache as kernels read it: k_cache and v_cache [num_blocks, block_size, Hkv, D], seen as a row for each slot."""

from __future__ import annotations

from collections.abc import Mapping

from kernels.gpu.launch import Problem
from kernels.gpu.target import Target

#: form of the cache, as symbols end -> the dtype of its elements
CACHE_DTYPES: Mapping[str, str] = {"act": "act", "fp16": "f16", "int8": "i8", "e4m3": "e4m3"}
#: those of codes, with an fp32 scale for each token and head
QUANTIZED_CACHES = ("int8", "e4m3")
BLOCK_SIZES = (16, 32, 64, 128, 256)


def cache_refusal(problem: Problem, target: Target) -> str | None:
    """Why no kernel can work on the caches of `problem` on `target`."""
    cache = problem["k_cache"]
    block_size = cache.shape[1]
    if block_size not in BLOCK_SIZES:
        return f"a KV block has {', '.join(map(str, BLOCK_SIZES))} tokens, not {block_size}"
    if problem["v_cache"].strides != cache.strides or cache.strides[0] != block_size * cache.strides[1]:
        return "slots of the caches of keys and of values must be evenly apart, and alike"
    if cache.dtype == "e4m3" and not target.arch.has_fp8:
        return f"{target.arch.name} has no e4m3; keep the KV cache in activations or in int8"
    return None
