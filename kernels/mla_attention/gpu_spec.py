"""Multi-head latent attention (DeepSeek-V2, V3) in absorbed form, causal, over a paged cache of latents; prefill and decode.

cache [num_blocks, block_size, R + P] holds for every token its latent c (R = kv_lora_rank, normalized) and its rotated key k_pe
(P = qk_rope_head_dim), shared by all heads. q [T, H, R + P] holds per head the absorbed query, q_nope W_UK, and the rotated
q_pe:

    scores = scale * q . (c, k_pe),  out [T, H, R] = softmax(scores) . c

Sequence s has query tokens cu_seqlens_q[s] .. cu_seqlens_q[s+1], the last of its seq_lens[s] tokens, all of which are in the
cache: query j of n has position p = seq_len - n + j and sees positions 0 .. p. max_query_len is the longest n of the batch; 1
means pure decode. A sequence of length 0, or without query tokens, and tokens beyond the last sequence's write nothing.
What a block holds beyond its sequence's end is not read. fp32 scores, softmax (base 2) and accumulation; softmax weights are
rounded to the activation dtype for their matmul.

A decoder chains, for hidden states x [T, D] after the norm, with Dn = qk_nope_head_dim, Dv = v_head_dim, L = R + P, and
kv_b_proj.weight seen as [H, Dn + Dv, R], of which the first Dn rows of a head are W_UK and the last Dv are W_UV:

    q = q_proj(x), or q_b_proj(rms_norm(q_a_proj(x)))             -> [T, H, Dn + P]
    kv = kv_a_proj_with_mqa(x)                                    -> [T, L]
    gpu_rms_norm on kv[:, :R] as [T, 1, R], out = x (kv_a_layernorm)
    gpu_mla_rope_and_cache(q, kv, ...)                            -> q_latent[:, :, R:], cache
    gpu_head_matmul(q, W_UK transposed [H, R, Dn])                -> q_latent[:, :, :R] of [T, H, L]
    gpu_mla_attention(q_latent, cache, ...)                       -> [T, H, R]
    gpu_head_matmul(that, W_UV [H, Dv, R])                        -> [T, H, Dv]
    o_proj(that as [T, H * Dv])

scale is (Dn + P)^-0.5, times the square of YaRN's mscale where the model has one.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kernels.spec import Arguments, Case, Cost, OpSpec, Scalar, Tensor

#: Per case: (tokens in the cache, new tokens) of each sequence.
_BATCHES: Mapping[str, tuple[tuple[int, int], ...]] = {
    "decode": ((37, 1), (1, 1), (70, 1)),
    "split": ((150, 1), (0, 0), (3, 1)),
    "prefill": ((21, 21), (75, 33)),
    "mixed": ((40, 1), (50, 13), (7, 7), (0, 0), (3, 0), (18, 2)),
    "many_heads": ((19, 1), (75, 1)),
    "one": ((1, 1),),
    "no_sequences": (),
}


def _make_inputs(rng: np.random.Generator, case: Case) -> Arguments:
    h, r, p, block_size = (case.sizes[axis] for axis in ("H", "R", "P", "block_size"))
    batch = _BATCHES[case.name]
    lengths = np.array([length for length, _ in batch], np.int32)
    new = [count for _, count in batch]
    used = -(-lengths // block_size)
    num_blocks = int(used.sum()) + 2
    order = rng.permutation(num_blocks).astype(np.int32)
    tables = np.zeros((len(batch), max(1, int(used.max(initial=1))) + 1), np.int32)
    for row, (start, count) in enumerate(zip(np.cumsum(used) - used, used, strict=True)):
        tables[row, :count] = order[start : start + count]
    cache = rng.standard_normal((num_blocks, block_size, r + p), np.float32)
    for row, length in enumerate(lengths):
        if length % block_size:
            cache[tables[row, length // block_size], length % block_size :] = np.nan
    # One token more than the sequences have pads the batch, and rows of q lie further apart than they are long.
    num_tokens = sum(new) + case.sizes["padding"]
    q = rng.standard_normal((num_tokens, h * (r + p) + 16), np.float32)
    return {
        "q": q[:, : h * (r + p)].reshape(num_tokens, h, r + p),
        "cache": cache,
        "block_tables": tables,
        "seq_lens": lengths,
        "cu_seqlens_q": np.cumsum([0, *new], dtype=np.int32),
        "out": np.zeros((num_tokens, h, r), np.float32),
        "scale": (r + p) ** -0.5,
        "max_query_len": max(1, *new) if new else 1,
    }


def _cost(sizes: Mapping[str, int]) -> Cost:
    """Of `T` query tokens that each see `context` positions, in `S` sequences."""
    h, r, latent = sizes["H"], sizes["R"], sizes["L"]
    cache = 2 * sizes["S"] * sizes["context"] * latent
    return Cost(cache + 2 * sizes["T"] * h * (r + latent), 2.0 * sizes["T"] * sizes["context"] * h * (r + latent))


SPECS = (
    OpSpec(
        symbol="gpu_mla_attention",
        op="mla_attention",
        summary="causal attention over a paged cache of latents, in absorbed form",
        tensors=(
            Tensor("q", "act", ("T", "H", "L")),
            Tensor("cache", "act", ("num_blocks", "block_size", "L")),
            Tensor("block_tables", "i32", ("S", "max_blocks")),
            Tensor("seq_lens", "i32", ("S",)),
            Tensor("cu_seqlens_q", "i32", ("S+1",)),
            Tensor("out", "act", ("T", "H", "R"), "out"),
        ),
        scalars=(Scalar("scale", "f64"), Scalar("max_query_len", "i64")),
        variable=("T", "S"),
        source="DeepSeek-AI 2024, DeepSeek-V2 (2.1); Dao et al. 2023, Flash-Decoding; Milakov & Gimelshein 2018",
        cases=tuple(
            Case(
                name,
                {"T": sum(new for _, new in _BATCHES[name]) + padding, "S": len(_BATCHES[name]), "H": h, "R": r, "P": p}
                | {"L": r + p, "block_size": block_size, "padding": padding}
                | {"context": max((length for length, _ in _BATCHES[name]), default=0)},
            )
            for name, h, r, p, block_size, padding in (
                ("decode", 5, 32, 16, 16, 0),
                ("split", 4, 32, 16, 64, 1),
                ("prefill", 3, 32, 16, 32, 0),
                ("mixed", 6, 64, 16, 16, 1),
                ("many_heads", 72, 16, 16, 32, 0),
                ("one", 2, 16, 16, 16, 0),
                ("no_sequences", 2, 16, 16, 16, 0),
            )
        ),
        make_inputs=_make_inputs,
        cost=_cost,
        backend="gpu",
    ),
)
