"""out = softmax(f(scale q K^T)) V over a paged KV cache, causal, for a batch of any mix of prefill and decode.

Sequence s has query tokens cu_seqlens_q[s] .. cu_seqlens_q[s+1]; they are the last of its seq_lens[s] tokens, whose K and V
are all in the cache: query j of n has position p = seq_len - n + j and sees positions 0 .. p, or with a window p - window + 1
.. p. Each group of Hq / Hkv query heads shares a kv head. f(x) = softcap tanh(x / softcap), or x if softcap is 0. A padded
sequence has no query tokens and a length of 0. `max_query_len` bounds the query tokens of a sequence: 1 plans for decoding.

A sink is a score of a query head that stands in no position's place: it joins the largest score and the sum of p, and has no
value.

A quantized cache has codes and one fp32 scale per token and head (see kernels/rope_and_cache/gpu_spec.py). Products are
accumulated in fp32; p = exp(score - largest score) is rounded for its product with V to the activations' dtype, over an fp16
cache to f16, as q is, and over a quantized one too, after its product with the scale of V. block_size is a power of two from
16 to 256; slots are evenly apart.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kernels.gpu.kv_cache import CACHE_DTYPES, QUANTIZED_CACHES
from kernels.spec import Arguments, Array, Case, Cost, OpSpec, Scalar, Tensor

#: Per case: (tokens in the cache, query tokens) of each sequence.
_BATCHES: Mapping[str, tuple[tuple[int, int], ...]] = {
    "decode": ((150, 1), (1, 1), (64, 1), (0, 0), (70, 1)),
    "decode_unsplit": ((37, 1), (17, 1)),
    "decode_window": ((140, 1), (30, 1)),
    "mixed": ((70, 1), (90, 50), (7, 7), (3, 0), (0, 0), (18, 2)),
    "window": ((90, 40), (5, 5)),
    "softcap": ((40, 3),),
    "sinks": ((40, 9), (33, 1)),
    "decode_sinks": ((150, 1), (0, 0), (20, 1)),
    "large_block": ((100, 12),),
    "one": ((1, 1),),
    "no_sequences": (),
}

_CASES = tuple(
    Case(
        name,
        {"T": sum(new for _, new in _BATCHES[name]), "S": len(_BATCHES[name]), "Hq": hq, "Hkv": hkv, "D": d}
        | {"block_size": block_size, "window": window, "softcap_tenths": softcap, "sinks": int("sinks" in name)}
        | {"max_query_len": max((new for _, new in _BATCHES[name]), default=0)}
        | {"context": max((length for length, _ in _BATCHES[name]), default=0)},
    )
    for name, hq, hkv, d, block_size, window, softcap in (
        ("decode", 6, 2, 64, 16, 0, 0),
        ("decode_unsplit", 2, 2, 80, 16, 0, 15),
        ("decode_window", 4, 1, 32, 16, 70, 0),
        ("mixed", 6, 2, 40, 16, 0, 0),
        ("window", 4, 2, 16, 16, 21, 0),
        ("softcap", 2, 1, 16, 32, 0, 15),
        ("sinks", 6, 2, 16, 32, 19, 0),
        ("decode_sinks", 6, 2, 32, 16, 0, 0),
        ("large_block", 3, 1, 32, 128, 0, 0),
        ("one", 2, 1, 16, 16, 0, 0),
        ("no_sequences", 2, 1, 16, 16, 0, 0),
    )
)

#: What another cache than one of activations changes lies in how tiles are read.
_OTHER_CASES = ("decode", "decode_window", "mixed", "large_block", "decode_sinks", "no_sequences")


def _spec(kv: str) -> OpSpec:
    dtype, is_quantized = CACHE_DTYPES[kv], kv in QUANTIZED_CACHES

    def cache(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
        if not is_quantized:
            return rng.standard_normal(shape, np.float32)
        if kv == "int8":
            int8: Array = rng.integers(-127, 128, shape, np.int8)
            return int8
        # Every code but the two that are no number.
        signs: Array = rng.choice(np.array([0, 0x80], np.uint8), shape)
        codes: Array = rng.integers(0, 127, shape, np.uint8) | signs
        return codes

    def make_inputs(rng: np.random.Generator, case: Case) -> Arguments:
        hq, hkv, d, block_size = (case.sizes[axis] for axis in ("Hq", "Hkv", "D", "block_size"))
        batch = _BATCHES[case.name]
        lengths = np.array([length for length, _ in batch], np.int32)
        cu_seqlens = np.cumsum([0, *(new for _, new in batch)], dtype=np.int32)
        used = -(-lengths // block_size)
        num_blocks = int(used.sum()) + 2
        order = rng.permutation(num_blocks).astype(np.int32)
        tables = np.zeros((len(batch), max(1, int(used.max(initial=1)))), np.int32)
        stale = np.ones((num_blocks, block_size), bool)
        for row, (start, count) in enumerate(zip(np.cumsum(used) - used, used, strict=True)):
            tables[row, :count] = order[start : start + count]
            slots = tables[row, :count, None] * block_size + np.arange(block_size)
            stale.reshape(-1)[slots.reshape(-1)[: lengths[row]]] = False
        qkv = rng.standard_normal((int(cu_seqlens[-1]), (hq + 2 * hkv) * d), np.float32)
        made: Arguments = {
            "q": qkv[:, : hq * d].reshape(-1, hq, d),
            "block_tables": tables,
            "seq_lens": lengths,
            "cu_seqlens_q": cu_seqlens,
            "sinks": _sinks(rng, hq) if case.sizes["sinks"] else None,
            "out": np.zeros((len(qkv), hq, d), np.float32),
            "scale": d**-0.5,
            "window": case.sizes["window"],
            "softcap": case.sizes["softcap_tenths"] / 10,
            "max_query_len": case.sizes["max_query_len"],
        }
        # What lies in slots that no token has written yet must not matter, not even if it is no number.
        nothing = {"int8": -128, "e4m3": 0x7F}.get(kv, np.nan)
        for name in ("k", "v"):
            codes = cache(rng, (num_blocks, block_size, hkv, d))
            codes[stale] = nothing
            made[f"{name}_cache"] = codes
            if is_quantized:
                scales = (rng.uniform(0.5, 1.5, codes.shape[:3]) / (64 if kv == "int8" else 100)).astype(np.float32)
                scales[stale] = np.nan
                made[f"{name}_scales"] = scales
        return made

    def cost(sizes: Mapping[str, int]) -> Cost:
        """Of `T` query tokens that each see `context` positions, in `S` sequences."""
        heads = sizes["Hq"] * sizes["D"]
        slot_bytes = sizes["D"] + 4 if is_quantized else 2 * sizes["D"]
        cache_bytes = 2 * sizes["S"] * sizes["context"] * sizes["Hkv"] * slot_bytes
        return Cost(cache_bytes + 4 * sizes["T"] * heads, 4.0 * sizes["T"] * sizes["context"] * heads)

    per_slot = ("num_blocks", "block_size", "Hkv")
    scales = (Tensor("k_scales", "f32", per_slot), Tensor("v_scales", "f32", per_slot))
    return OpSpec(
        symbol=f"gpu_paged_attention_{kv}",
        op="paged_attention",
        summary=f"causal attention over a paged KV cache of {'activations' if kv == 'act' else kv}",
        tensors=(
            Tensor("q", "act", ("T", "Hq", "D")),
            Tensor("k_cache", dtype, (*per_slot, "D")),
            Tensor("v_cache", dtype, (*per_slot, "D")),
            *(scales if is_quantized else ()),
            Tensor("block_tables", "i32", ("S", "max_blocks")),
            Tensor("seq_lens", "i32", ("S",)),
            Tensor("cu_seqlens_q", "i32", ("S+1",)),
            Tensor("sinks", "f32", ("Hq",), optional=True),
            Tensor("out", "act", ("T", "Hq", "D"), "out"),
        ),
        scalars=(Scalar("scale", "f64"), Scalar("window", "i64"), Scalar("softcap", "f64"), Scalar("max_query_len", "i64")),
        variable=("T", "S"),
        source="Kwon et al. 2023, PagedAttention; Dao 2023, FlashAttention-2 and Flash-Decoding; Ainslie et al. 2023, GQA; "
        "OpenAI 2025, gpt-oss (sinks)",
        cases=tuple(case for case in _CASES if kv == "act" or case.name in _OTHER_CASES),
        make_inputs=make_inputs,
        cost=cost,
        backend="gpu",
    )


def _sinks(rng: np.random.Generator, num_heads: int) -> Array:
    """Of the size of scores, the first one above all of them and the second below."""
    sinks: Array = rng.standard_normal(num_heads, np.float32)
    sinks[:2] = 6.0, -6.0
    return sinks


SPECS = tuple(map(_spec, CACHE_DTYPES))
