"""Rotates q and k in place by the angles of their positions, and writes rotated k, and v, into the KV cache.

`gpu_rope` rotates q alone. Pairs are (i, i + D/2) of a head; cos and sin are fp32 tables over positions. Slot = block *
block_size + offset; -1 writes nothing. q, k and v are views of one qkv buffer, whose rows are further apart. Rotated in fp32
and rounded once, to fp16 after saturating at its largest number; a quantized cache has codes of v, and of the rotated k before
that rounding, by the rule of kernels/quantize_activations/gpu_spec.py, with one fp32 scale for each token and head.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kernels.gpu.kv_cache import CACHE_DTYPES, QUANTIZED_CACHES
from kernels.spec import DTYPES, Arguments, Case, Cost, OpSpec, Tensor

_CASES = tuple(
    Case(name, {"T": t, "Hq": hq, "Hkv": hkv, "D": d, "block_size": block_size})
    for name, t, hq, hkv, d, block_size in (
        ("grouped", 9, 6, 2, 32, 16),
        ("odd_group", 5, 9, 3, 80, 32),
        ("ungrouped", 3, 2, 2, 16, 64),
        ("one", 1, 3, 1, 64, 16),
        ("no_tokens", 0, 2, 1, 16, 16),
    )
)


def _spec(kv: str) -> OpSpec:
    dtype, is_quantized = CACHE_DTYPES[kv], kv in QUANTIZED_CACHES

    def make_inputs(rng: np.random.Generator, case: Case) -> Arguments:
        t, hq, hkv, d, block_size = (case.sizes[axis] for axis in ("T", "Hq", "Hkv", "D", "block_size"))
        num_blocks = -(-t // block_size) + 2
        # Heads lie in a row of the qkv buffer, and that in a wider one.
        qkv = rng.standard_normal((t, (hq + 2 * hkv) * d + 8), np.float32)
        angles = rng.uniform(0, 6.3, (64, d // 2))
        slots = rng.permutation(num_blocks * block_size)[:t].astype(np.int64)
        slots[1::4] = -1
        storage = np.dtype(DTYPES[dtype][0] if is_quantized else np.float32)
        made: Arguments = {
            "q": qkv[:, : hq * d].reshape(t, hq, d),
            "k": qkv[:, hq * d : (hq + hkv) * d].reshape(t, hkv, d),
            "v": qkv[:, (hq + hkv) * d : (hq + 2 * hkv) * d].reshape(t, hkv, d),
            "cos": np.cos(angles).astype(np.float32),
            "sin": np.sin(angles).astype(np.float32),
            "positions": rng.integers(0, 64, t, np.int32),
            "slot_mapping": slots,
            "k_cache": np.zeros((num_blocks, block_size, hkv, d), storage),
            "v_cache": np.zeros((num_blocks, block_size, hkv, d), storage),
        }
        if is_quantized:
            made["k_scales"] = np.zeros((num_blocks, block_size, hkv), np.float32)
            made["v_scales"] = np.zeros((num_blocks, block_size, hkv), np.float32)
        return made

    def cost(sizes: Mapping[str, int]) -> Cost:
        rotated = sizes["T"] * (sizes["Hq"] + sizes["Hkv"]) * sizes["D"]
        vectors = 2 * sizes["T"] * sizes["Hkv"]
        written = vectors * (sizes["D"] + 4 if is_quantized else 2 * sizes["D"])
        return Cost(4 * rotated + vectors * sizes["D"] + written, 3 * rotated)

    slots = ("num_blocks", "block_size", "Hkv")
    scales = (Tensor("k_scales", "f32", slots, "inout"), Tensor("v_scales", "f32", slots, "inout"))
    return OpSpec(
        symbol=f"gpu_rope_and_cache_{kv}",
        op="rope_and_cache",
        summary=f"rotary embedding of q and k, and their write into a cache of {'activations' if kv == 'act' else kv}",
        tensors=(
            Tensor("q", "act", ("T", "Hq", "D"), "inout"),
            Tensor("k", "act", ("T", "Hkv", "D"), "inout"),
            Tensor("v", "act", ("T", "Hkv", "D")),
            Tensor("cos", "f32", ("P", "D/2")),
            Tensor("sin", "f32", ("P", "D/2")),
            Tensor("positions", "i32", ("T",)),
            Tensor("slot_mapping", "i64", ("T",)),
            Tensor("k_cache", dtype, (*slots, "D"), "inout"),
            Tensor("v_cache", dtype, (*slots, "D"), "inout"),
            *(scales if is_quantized else ()),
        ),
        scalars=(),
        variable=("T",),
        source="Su et al. 2021, RoFormer; Kwon et al. 2023, PagedAttention",
        cases=_CASES,
        make_inputs=make_inputs,
        cost=cost,
        backend="gpu",
    )


def _make_rope_inputs(rng: np.random.Generator, case: Case) -> Arguments:
    made = _spec("act").make_inputs(rng, case)
    return {name: made[name] for name in ("q", "cos", "sin", "positions")}


def _rope_cost(sizes: Mapping[str, int]) -> Cost:
    rotated = sizes["T"] * sizes["Hq"] * sizes["D"]
    return Cost(4 * rotated, 3 * rotated)


ROPE = OpSpec(
    symbol="gpu_rope",
    op="rope_and_cache",
    summary="rotary embedding of q",
    tensors=(
        Tensor("q", "act", ("T", "Hq", "D"), "inout"),
        Tensor("cos", "f32", ("P", "D/2")),
        Tensor("sin", "f32", ("P", "D/2")),
        Tensor("positions", "i32", ("T",)),
    ),
    scalars=(),
    variable=("T",),
    source="Su et al. 2021, RoFormer",
    cases=_CASES,
    make_inputs=_make_rope_inputs,
    cost=_rope_cost,
    backend="gpu",
)

SPECS = (ROPE, *map(_spec, CACHE_DTYPES))
