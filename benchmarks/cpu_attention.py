"""Attention of one layer, timed on builds for several instruction sets in turn, A B A B.

    python -m benchmarks.cpu_attention --isas x86-64-v4-vnni,x86-64-v4-amx --out FILE

Shapes are SmolLM2-135M's: 9 q heads on 3 kv heads of 64. The median of a case is over all its calls in all rounds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks import cpu_calls
from kernels import registry
from kernels.cpu import kv_cache
from kernels.paged_attention.spec import scratch_shapes
from kernels.spec import Arguments, Call, Program
from runtime.buffers import zeros

#: name -> (tokens in the cache, new tokens) of each sequence
CASES: dict[str, list[tuple[int, int]]] = {
    "prefill of 512": [(512, 512)],
    "last 128 of 512": [(512, 128)],
    "decode at 128": [(128, 1)],
    "decode at 1500": [(1500, 1)],
    "decode at 8000": [(8000, 1)],
    "decode of 32 at 160": [(160, 1)] * 32,
}
HQ, HKV, D = 9, 3, 64


def attention(
    kv: str, sequences: Sequence[tuple[int, int]], block_size: int, hq: int = HQ, hkv: int = HKV, d: int = D
) -> Program:
    """One call on normal random numbers, blocks in random order."""
    rng = np.random.default_rng(0)
    lengths = np.array([length for length, _ in sequences], np.int32)
    cu_seqlens = np.cumsum([0, *(new for _, new in sequences)], dtype=np.int32)
    used = -(-lengths // block_size)
    num_blocks, num_tokens = int(used.sum()), int(cu_seqlens[-1])
    tables = np.zeros((len(sequences), int(used.max())), np.int32)
    order = rng.permutation(num_blocks).astype(np.int32)
    for row, (start, count) in enumerate(zip(np.cumsum(used) - used, used, strict=True)):
        tables[row, :count] = order[start : start + count]
    k, v = (rng.standard_normal((num_blocks, hkv, block_size, d), np.float32) for _ in range(2))
    caches = kv_cache.empty(kv, num_blocks, hkv, block_size, d, zeros)
    for name, values in kv_cache.stored(kv, k, v).items():
        caches[name][:] = values
    q, out = (zeros((num_tokens, hq, d), np.float32) for _ in range(2))
    q[:] = rng.standard_normal(q.shape, np.float32)
    scratch = scratch_shapes(hq, hkv, d, int(lengths.sum()), len(sequences))
    arguments: Arguments = {
        "q": q,
        **caches,
        "block_tables": tables,
        "seq_lens": lengths,
        "cu_seqlens_q": cu_seqlens,
        "partials": zeros(scratch["partials"], np.float32),
        "arrived": zeros(scratch["arrived"], np.int32),
        "out": out,
        "scale": d**-0.5,
        "window": 0,
    }
    spec = registry.spec(f"paged_attention_{kv}")
    counters = {"T": np.array([num_tokens], np.int64), "S": np.array([len(sequences)], np.int64)}
    return Program((Call(spec.symbol, arguments, {"T": "T", "S": "S"}),), counters)


def main() -> None:
    parser = cpu_calls.arguments(__doc__)
    parser.add_argument("--kv", default="bf16", choices=list(kv_cache.STORAGE))
    parser.add_argument("--block-size", type=int, default=32)
    options = parser.parse_args()
    cases = ((case, attention(options.kv, sequences, options.block_size)) for case, sequences in CASES.items())
    cpu_calls.compare(cases, options)


if __name__ == "__main__":
    main()
