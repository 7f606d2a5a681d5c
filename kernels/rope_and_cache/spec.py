"""Rotates q and k in place by the angles of their positions, and writes rotated k and v into the KV cache.

Pairs are (i, i + D/2) of a head; cos and sin are tables over positions. Slot = block * block_size + offset; -1 writes nothing.
`rope` rotates q alone: of a layer whose keys are those of another. q, k and v are views of one qkv buffer, whose row stride
they carry. A bf16 or fp16 cache rounds to nearest even, fp16 after saturating at its largest number; an int8 one as
quantize_activations does, with a scale for each token and kv head, keys less `k_centre`, where that is given: what all keys of
a channel have in common moves every score of a query alike, and no softmax.

Of latents (DeepSeek-AI 2024) kv is a token's row, [rank + 2 pairs]: normalized latent, then the key that all heads share. It
goes into the cache with its last columns rotated; what is rotated of a head of q, its last columns, goes to the last ones of
q_latent, whose first ones other ops write. Pairs are (2i, 2i + 1) there, and come out as all the first, then all the second.
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


def _latent_spec(kv: str) -> OpSpec:
    def make_inputs(rng: np.random.Generator, case: Case) -> Arguments:
        t, hq, nope, rank, pairs, block_size = (case.sizes[axis] for axis in ("T", "Hq", "nope", "R", "pairs", "block_size"))
        num_blocks = -(-t // block_size) + 2
        q_width, width = nope + 2 * pairs, rank + 2 * pairs
        angles = rng.uniform(0, 6.3, (64, pairs))
        slots = rng.permutation(num_blocks * block_size)[:t].astype(np.int64)
        slots[1::4] = -1
        return {
            "q": rng.standard_normal((t, hq * q_width + 8), np.float32)[:, : hq * q_width].reshape(t, hq, q_width),
            "kv": rng.standard_normal((t, width + 8), np.float32)[:, :width],
            "cos": np.cos(angles).astype(np.float32),
            "sin": np.sin(angles).astype(np.float32),
            "positions": rng.integers(0, 64, t, np.int32),
            "slot_mapping": slots,
            "q_latent": rng.standard_normal((t, hq, width), np.float32),
            **kv_cache.empty_latents(kv, num_blocks, block_size, width),
        }

    def cost(sizes: Mapping[str, int]) -> Cost:
        t, width, rotated = sizes["T"], sizes["D"], 2 * sizes["T"] * (sizes["Hq"] + 1) * sizes["pairs"]
        return Cost(8 * rotated + t * (4 * width + kv_cache.row_bytes(kv, width)), 3 * rotated)

    return OpSpec(
        symbol=f"rope_and_cache_latent_{kv}",
        op="rope_and_cache",
        summary=f"rotary embedding of q and of the key beside a latent, and the latent's {kv} cache write",
        tensors=(
            Tensor("q", "f32", ("T", "Hq", "Dq")),
            Tensor("kv", "f32", ("T", "D")),
            Tensor("cos", "f32", ("P", "pairs")),
            Tensor("sin", "f32", ("P", "pairs")),
            Tensor("positions", "i32", ("T",)),
            Tensor("slot_mapping", "i64", ("T",)),
            Tensor("q_latent", "f32", ("T", "Hq", "D"), "inout"),
            kv_cache.latent_tensor(kv, "inout"),
        ),
        scalars=kv_cache.latent_scalars(kv),
        variable=("T",),
        source="DeepSeek-AI 2024, DeepSeek-V2 (2.1.3); Su et al. 2021, RoFormer; Kwon et al. 2023, PagedAttention",
        cases=tuple(
            Case(name, {"T": t, "Hq": hq, "nope": nope, "R": rank, "pairs": pairs, "block_size": block_size})
            for name, t, hq, nope, rank, pairs, block_size in (
                ("some", 9, 3, 24, 40, 8, 16),
                ("odd", 5, 2, 7, 10, 3, 32),
                ("one", 1, 1, 16, 16, 4, 16),
                ("no_tokens", 0, 2, 16, 16, 4, 16),
            )
        ),
        make_inputs=make_inputs,
        cost=cost,
    )


def _make_rope_inputs(rng: np.random.Generator, case: Case) -> Arguments:
    made = _spec("fp32").make_inputs(rng, case)
    return {name: made[name] for name in ("q", "cos", "sin", "positions")}


def _rope_cost(sizes: Mapping[str, int]) -> Cost:
    rotated = sizes["T"] * sizes["Hq"] * sizes["D"]
    return Cost(8 * rotated, 3 * rotated)


ROPE = OpSpec(
    symbol="rope",
    op="rope_and_cache",
    summary="rotary embedding of q",
    tensors=(
        Tensor("q", "f32", ("T", "Hq", "D"), "inout"),
        Tensor("cos", "f32", ("P", "D/2")),
        Tensor("sin", "f32", ("P", "D/2")),
        Tensor("positions", "i32", ("T",)),
    ),
    scalars=(),
    variable=("T",),
    source="Su et al. 2021, RoFormer",
    cases=_spec("fp32").cases,
    make_inputs=_make_rope_inputs,
    cost=_rope_cost,
)

SPECS = (ROPE, *(_spec(kv) for kv in kv_cache.STORAGE), *(_latent_spec(kv) for kv in kv_cache.LATENT_STORAGE))
