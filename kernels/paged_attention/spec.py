"""out = softmax(f(scale q K^T)) V over a paged KV cache, causal, for a batch of any mix of prefill and decode.

Sequence s has query tokens cu_seqlens_q[s] .. cu_seqlens_q[s+1]; they are the last of its seq_lens[s] tokens, whose K and
V are all in the cache: query j of n has position p = seq_len - n + j and sees positions 0 .. p, or with a window
p - window + 1 .. p. Each group of Hq / Hkv query heads shares a kv head. The cache lies as `kernels.cpu.kv_cache` says; K and
V are read as fp32, times the scale of their token and kv head where they are int8. Over a bf16 cache, q and the weights
e^(score - max) are rounded to bf16 as well, and the weights are divided by the sum of the rounded ones: products of bf16,
sums of fp32, on every instruction set. f(s) is softcap tanh(s / softcap) for the entry points that are capped, else s.

A sink is a score of a query head that stands in no position's place: it joins the largest score and, by its weight, which is
not rounded, the sum of weights, and has no value. Entry points with sinks have a cap, too, which is none where it is 0.

`partials` and `arrived` are room for what threads leave to each other where few sequences decode: a row for every query head
and 64 positions of the context, and an item for every sequence and kv head. Where there is less, nothing is split.

Of latents a position's row is its key, and its first R columns its value, for all heads: attention of one kv head, as
DeepSeek-V2's is in absorbed form, out [T, Hq, R]. All else holds for it, too, but for windows and caps. Heads are shared out in
sixteens, each of which is an item for `arrived`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kernels.cpu import kv_cache
from kernels.spec import Arguments, Array, Case, Cost, OpSpec, Scalar, Tensor

CHUNK_TOKENS = 64
#: Per case: (tokens in the cache, new tokens) of each sequence.
_BATCHES: Mapping[str, tuple[tuple[int, int], ...]] = {
    "decode": ((37, 1), (1, 1), (16, 1), (65, 1)),
    "long_decode": ((333, 1), (64, 1)),
    "long_window": ((300, 1), (65, 1)),
    "prefill": ((21, 21), (33, 33)),
    "mixed": ((40, 1), (50, 19), (7, 7), (3, 0), (18, 2)),
    "window": ((60, 1), (45, 45), (5, 5)),
    "odd_head": ((30, 1), (20, 20)),
    "one": ((1, 1),),
    "wide_head": ((130, 70), (65, 1)),
    "no_sequences": (),
}
#: What entry points do beside attention, by their names.
_FORMS: Mapping[str, str] = {"": "", "capped_": ", scores capped", "sinks_": ", with sinks, scores capped or not"}
_CAPPED_WITH_SINKS = ("prefill", "long_window")


def entry_point(kv: str, softcap: float, sinks: Array | None) -> tuple[str, Arguments]:
    """Which one attends so over a cache of `kv`, and what it takes that the plain one does not."""
    if sinks is not None:
        return f"paged_attention_sinks_{kv}", {"sinks": sinks, "softcap": softcap}
    return (f"paged_attention_capped_{kv}", {"softcap": softcap}) if softcap else (f"paged_attention_{kv}", {})


def scratch_shapes(
    num_q_heads: int, num_kv_heads: int, head_dim: int, num_tokens: int, num_seqs: int
) -> dict[str, tuple[int, ...]]:
    """Shapes of `partials` and `arrived` for contexts of `num_tokens` tokens in all, in so many sequences."""
    num_chunks = -(-num_tokens // CHUNK_TOKENS) + num_seqs
    return {"partials": (num_chunks * num_q_heads, head_dim + 2), "arrived": (num_seqs * num_kv_heads,)}


def _spec(kv: str, form: str) -> OpSpec:
    has_sinks, has_cap = form == "sinks_", form != ""

    def make_inputs(rng: np.random.Generator, case: Case) -> Arguments:
        hq, hkv, d, block_size = (case.sizes[axis] for axis in ("Hq", "Hkv", "D", "block_size"))
        num_blocks, batch = _batch(rng, case.name, block_size)
        num_tokens = sum(length for length, _ in _BATCHES[case.name])
        qkv = rng.standard_normal((case.sizes["T"], (hq + 2 * hkv) * d), np.float32)
        k, v = (rng.standard_normal((num_blocks, hkv, block_size, d), np.float32) for _ in range(2))
        shapes = scratch_shapes(hq, hkv, d, num_tokens, len(_BATCHES[case.name]))
        return {
            "q": qkv[:, : hq * d].reshape(-1, hq, d),
            **kv_cache.stored(kv, k, v),
            **batch,
            "partials": np.zeros(shapes["partials"], np.float32),
            "arrived": np.zeros(shapes["arrived"], np.int32),
            "out": np.zeros((len(qkv), hq, d), np.float32),
            "scale": d**-0.5,
            "window": case.sizes["window"],
            **({"sinks": _sinks(rng, hq)} if has_sinks else {}),
            **({"softcap": 1.5 if form == "capped_" or case.name in _CAPPED_WITH_SINKS else 0.0} if has_cap else {}),
        }

    def cost(sizes: Mapping[str, int]) -> Cost:
        """Of `T` query tokens that each see `context` positions, in `S` sequences."""
        heads = sizes["Hq"] * sizes["D"]
        cache = 2 * sizes["S"] * sizes["context"] * sizes["Hkv"] * kv_cache.row_bytes(kv, sizes["D"])
        return Cost(cache + 8 * sizes["T"] * heads, 4.0 * sizes["T"] * sizes["context"] * heads)

    return OpSpec(
        symbol=f"paged_attention_{form}{kv}",
        op="paged_attention",
        summary=f"causal attention over a paged {kv} cache" + _FORMS[form],
        tensors=(
            Tensor("q", "f32", ("T", "Hq", "D")),
            *kv_cache.tensors(kv, "in"),
            Tensor("block_tables", "i32", ("S", "max_blocks")),
            Tensor("seq_lens", "i32", ("S",)),
            Tensor("cu_seqlens_q", "i32", ("S+1",)),
            Tensor("partials", "f32", ("num_partials", "D+2"), "scratch"),
            Tensor("arrived", "i32", ("num_items",), "scratch"),
            Tensor("out", "f32", ("T", "Hq", "D"), "out"),
            *((Tensor("sinks", "f32", ("Hq",)),) if has_sinks else ()),
        ),
        scalars=(Scalar("scale", "f64"), Scalar("window", "i64"), *((Scalar("softcap", "f64"),) if has_cap else ())),
        variable=("T", "S"),
        source="Kwon et al. 2023, PagedAttention; Ainslie et al. 2023, GQA; Beltagy et al. 2020, Longformer (window); "
        "Milakov & Gimelshein 2018 (online softmax); Dao et al. 2023, Flash-Decoding"
        + ("; Gemma Team 2024, Gemma 2 (section 2)" if has_cap else "")
        + ("; OpenAI 2025, gpt-oss (2.2); Xiao et al. 2023 (attention sinks)" if has_sinks else ""),
        cases=tuple(
            Case(
                name,
                {"T": sum(new for _, new in _BATCHES[name]), "S": len(_BATCHES[name]), "Hq": hq, "Hkv": hkv, "D": d}
                | {"block_size": block_size, "window": window}
                | {"context": max((length for length, _ in _BATCHES[name]), default=0)},
            )
            for name, hq, hkv, d, block_size, window in (
                ("decode", 9, 3, 64, 16, 0),
                ("long_decode", 6, 2, 24, 16, 0),
                ("long_window", 3, 1, 16, 32, 100),
                ("prefill", 4, 2, 32, 32, 0),
                ("mixed", 6, 2, 80, 16, 0),
                ("window", 4, 4, 16, 16, 18),
                ("odd_head", 4, 1, 10, 48, 0),
                ("one", 2, 1, 16, 16, 0),
                ("wide_head", 8, 1, 128, 64, 0),
                ("no_sequences", 2, 1, 16, 16, 0),
            )
        ),
        make_inputs=make_inputs,
        cost=cost,
    )


def _sinks(rng: np.random.Generator, num_heads: int) -> Array:
    """Of the size of scores, the first one above all of them and the second below, where there are so many."""
    sinks: Array = rng.standard_normal(num_heads).astype(np.float32)
    sinks[:2] = (9.0, -9.0)[:num_heads]
    return sinks


def _batch(rng: np.random.Generator, name: str, block_size: int) -> tuple[int, Arguments]:
    """How many blocks the cache has, and what says which tokens are whose."""
    batch = _BATCHES[name]
    lengths = np.array([length for length, _ in batch], np.int32)
    used = -(-lengths // block_size)
    num_blocks = int(used.sum()) + 2
    order = rng.permutation(num_blocks).astype(np.int32)
    tables = np.zeros((len(batch), max(1, int(used.max(initial=1)))), np.int32)
    for row, (start, count) in enumerate(zip(np.cumsum(used) - used, used, strict=True)):
        tables[row, :count] = order[start : start + count]
    starts = np.cumsum([0, *(new for _, new in batch)], dtype=np.int32)
    return num_blocks, {"block_tables": tables, "seq_lens": lengths, "cu_seqlens_q": starts}


def _latent_spec(kv: str) -> OpSpec:
    def make_inputs(rng: np.random.Generator, case: Case) -> Arguments:
        hq, d, r, block_size = (case.sizes[axis] for axis in ("Hq", "D", "R", "block_size"))
        num_blocks, batch = _batch(rng, case.name, block_size)
        t = case.sizes["T"]
        num_tokens = sum(length for length, _ in _BATCHES[case.name])
        shapes = scratch_shapes(hq, hq, r, num_tokens, len(_BATCHES[case.name]))
        return {
            "q": rng.standard_normal((t, hq * d + 8), np.float32)[:, : hq * d].reshape(t, hq, d),
            **kv_cache.stored_latents(kv, rng.standard_normal((num_blocks, block_size, d), np.float32)),
            **batch,
            "partials": np.zeros(shapes["partials"], np.float32),
            "arrived": np.zeros(shapes["arrived"], np.int32),
            "out": np.zeros((t, hq, r), np.float32),
            "scale": d**-0.5,
        }

    def cost(sizes: Mapping[str, int]) -> Cost:
        """Of `T` query tokens that each see `context` positions, in `S` sequences."""
        heads, both = sizes["T"] * sizes["Hq"], sizes["D"] + sizes["R"]
        cache = sizes["S"] * sizes["context"] * kv_cache.row_bytes(kv, sizes["D"])
        return Cost(cache + 4 * heads * both, 2.0 * heads * sizes["context"] * both)

    return OpSpec(
        symbol=f"paged_attention_latent_{kv}",
        op="paged_attention",
        summary=f"causal attention over a paged {kv} cache of latents, in absorbed form",
        tensors=(
            Tensor("q", "f32", ("T", "Hq", "D")),
            kv_cache.latent_tensor(kv, "in"),
            Tensor("block_tables", "i32", ("S", "max_blocks")),
            Tensor("seq_lens", "i32", ("S",)),
            Tensor("cu_seqlens_q", "i32", ("S+1",)),
            Tensor("partials", "f32", ("num_partials", "R+2"), "scratch"),
            Tensor("arrived", "i32", ("num_items",), "scratch"),
            Tensor("out", "f32", ("T", "Hq", "R"), "out"),
        ),
        scalars=(Scalar("scale", "f64"), *kv_cache.latent_scalars(kv)),
        variable=("T", "S"),
        source="DeepSeek-AI 2024, DeepSeek-V2 (2.1); Kwon et al. 2023, PagedAttention; Milakov & Gimelshein 2018 (online "
        "softmax); Dao et al. 2023, Flash-Decoding",
        cases=tuple(
            Case(
                name,
                {"T": sum(new for _, new in _BATCHES[name]), "S": len(_BATCHES[name]), "Hq": hq, "D": r + p, "R": r}
                | {"block_size": block_size, "context": max((length for length, _ in _BATCHES[name]), default=0)},
            )
            for name, hq, r, p, block_size in (
                ("decode", 5, 32, 16, 16),
                ("long_decode", 32, 48, 8, 32),
                ("prefill", 16, 20, 6, 32),
                ("mixed", 6, 64, 16, 16),
                ("odd_head", 3, 10, 4, 48),
                ("one", 2, 16, 16, 16),
                ("wide_head", 4, 128, 32, 64),
                ("no_sequences", 2, 16, 16, 16),
            )
        ),
        make_inputs=make_inputs,
        cost=cost,
    )


SPECS = tuple(_spec(kv, form) for form in _FORMS for kv in kv_cache.STORAGE) + tuple(
    _latent_spec(kv) for kv in kv_cache.LATENT_STORAGE
)
