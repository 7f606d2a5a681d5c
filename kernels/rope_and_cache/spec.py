"""Rotates q and k in place by the angles of their positions, and writes rotated k and v into the KV cache.

Pairs are (i, i + D/2) of a head; cos and sin are tables over positions. Slot = block * block_size + offset; -1 writes
nothing. q, k and v are views of one qkv buffer, whose row stride they carry. A bf16 or fp16 cache rounds to nearest even, fp16
after saturating at its largest number; an int8 one as quantize_activations does, with a scale for each token and kv head, keys
less `k_centre`, where that is given: what all keys of a channel have in common moves every score of a query alike, and no
softmax.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kernels.cpu import kv_cache
from kernels.spec import Arguments, Case, Cost, OpSpec, Tensor


def _spec(kv: str) -> OpSpec:
    def make_inputs(rng: np.random.Generator, case: Case) -> Arguments:
        t, hq, hkv, d, block_size = (case.sizes[axis] for axis in ("T", "Hq", "Hkv", "D", "block_size"))
        num_blocks = -(-t // block_size) + 2
        qkv = rng.standard_normal((t, (hq + 2 * hkv) * d), np.float32)
        angles = rng.uniform(0, 6.3, (64, d // 2))
        slots = rng.permutation(num_blocks * block_size)[:t].astype(np.int64)
        slots[1::4] = -1
        made: Arguments = {
            "q": qkv[:, : hq * d].reshape(t, hq, d),
            "k": qkv[:, hq * d : (hq + hkv) * d].reshape(t, hkv, d),
            "v": qkv[:, (hq + hkv) * d :].reshape(t, hkv, d),
            "cos": np.cos(angles).astype(np.float32),
            "sin": np.sin(angles).astype(np.float32),
            "positions": rng.integers(0, 64, t, np.int32),
            "slot_mapping": slots,
            **kv_cache.empty(kv, num_blocks, hkv, block_size, d),
        }
        if kv == "int8" and case.name == "grouped":
            made["k_centre"] = rng.standard_normal((hkv, d), np.float32)
        return made

    def cost(sizes: Mapping[str, int]) -> Cost:
        rotated = sizes["T"] * (sizes["Hq"] + sizes["Hkv"]) * sizes["D"]
        return Cost(8 * rotated + 2 * sizes["T"] * sizes["Hkv"] * kv_cache.row_bytes(kv, sizes["D"]), 3 * rotated)

    return OpSpec(
        symbol=f"rope_and_cache_{kv}",
        op="rope_and_cache",
        summary=f"rotary embedding of q and k, and their {kv} cache write",
        tensors=(
            Tensor("q", "f32", ("T", "Hq", "D"), "inout"),
            Tensor("k", "f32", ("T", "Hkv", "D"), "inout"),
            Tensor("v", "f32", ("T", "Hkv", "D")),
            Tensor("cos", "f32", ("P", "D/2")),
            Tensor("sin", "f32", ("P", "D/2")),
            Tensor("positions", "i32", ("T",)),
            Tensor("slot_mapping", "i64", ("T",)),
            *kv_cache.tensors(kv, "inout"),
            *([Tensor("k_centre", "f32", ("Hkv", "D"), optional=True)] if kv == "int8" else []),
        ),
        scalars=(),
        variable=("T",),
        source="Su et al. 2021, RoFormer; Kwon et al. 2023, PagedAttention",
        cases=tuple(
            Case(name, {"T": t, "Hq": hq, "Hkv": hkv, "D": d, "block_size": block_size})
            for name, t, hq, hkv, d, block_size in (
                ("grouped", 9, 6, 2, 32, 16),
                ("odd_head", 5, 2, 2, 10, 32),
                ("one", 1, 3, 1, 64, 16),
                ("no_tokens", 0, 2, 1, 16, 16),
            )
        ),
        make_inputs=make_inputs,
        cost=cost,
    )


SPECS = tuple(_spec(kv) for kv in kv_cache.STORAGE)
