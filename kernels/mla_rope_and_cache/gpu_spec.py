"""Rotates MLA's q_pe and k_pe by the angles of their positions, and writes latents and rotated keys into the cache.

q [T, H, Q] has q_pe in the last P columns of each head, kv [T, R + P] the normalized latent and then k_pe. Pairs are
(2i, 2i + 1), as DeepSeek's weights have them; the first elements of all rotated pairs are written before the second ones, in
query and key alike, so that their products are the same. Rotated queries go to the last P columns of q_latent [T, H, R + P]
(head_matmul writes the first R), latent and rotated key to row slot_mapping[t] of the cache [num_blocks, block_size, R + P];
slot -1 writes nothing. fp32 inside, rounded once. cos and sin [max_positions, P / 2] carry YaRN's factor if there is one. How a
decoder uses it: kernels/mla_attention/gpu_spec.py.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kernels.spec import Arguments, Case, Cost, OpSpec, Tensor


def _make_inputs(rng: np.random.Generator, case: Case) -> Arguments:
    t, h, q_width, r, p, block_size = (case.sizes[axis] for axis in ("T", "H", "Q", "R", "P", "block_size"))
    num_blocks = -(-t // block_size) + 2
    angles = rng.uniform(0, 6.3, (64, p // 2))
    slots = rng.permutation(num_blocks * block_size)[:t].astype(np.int64)
    slots[1::4] = -1
    return {
        "q": rng.standard_normal((t, h * q_width + 8), np.float32)[:, : h * q_width].reshape(t, h, q_width),
        "kv": rng.standard_normal((t, r + p + 8), np.float32)[:, : r + p],
        "cos": np.cos(angles).astype(np.float32),
        "sin": np.sin(angles).astype(np.float32),
        "positions": rng.integers(0, 64, t, np.int32),
        "slot_mapping": slots,
        "q_latent": rng.standard_normal((t, h, r + p), np.float32),
        "cache": rng.standard_normal((num_blocks, block_size, r + p), np.float32),
    }


def _cost(sizes: Mapping[str, int]) -> Cost:
    t, h, p, latent = sizes["T"], sizes["H"], 2 * sizes["half"], sizes["L"]
    return Cost(4 * t * (h * p + latent), 3.0 * t * (h + 1) * p)


SPECS = (
    OpSpec(
        symbol="gpu_mla_rope_and_cache",
        op="mla_rope_and_cache",
        summary="rotary embedding of MLA's queries and key, and the write of the latent",
        tensors=(
            Tensor("q", "act", ("T", "H", "Q")),
            Tensor("kv", "act", ("T", "L")),
            Tensor("cos", "f32", ("max_positions", "half")),
            Tensor("sin", "f32", ("max_positions", "half")),
            Tensor("positions", "i32", ("T",)),
            Tensor("slot_mapping", "i64", ("T",)),
            Tensor("q_latent", "act", ("T", "H", "L"), "inout"),
            Tensor("cache", "act", ("num_blocks", "block_size", "L"), "inout"),
        ),
        scalars=(),
        variable=("T",),
        source="DeepSeek-AI 2024, DeepSeek-V2 (2.1.3, decoupled rotary embedding); Su et al. 2021, RoFormer",
        cases=tuple(
            Case(name, {"T": t, "H": h, "Q": q_width, "R": r, "P": p, "half": p // 2, "L": r + p, "block_size": block_size})
            for name, t, h, q_width, r, p, block_size in (
                ("several", 9, 6, 40, 32, 16, 16),
                ("many_heads", 3, 19, 24, 24, 8, 32),
                ("one", 1, 1, 16, 16, 16, 16),
                ("no_tokens", 0, 2, 16, 16, 8, 16),
            )
        ),
        make_inputs=_make_inputs,
        cost=_cost,
        backend="gpu",
    ),
)
