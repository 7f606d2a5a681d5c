"""Attention of one layer of DeepSeek-V2-Lite, in absorbed form as it is served, and on expanded keys and values.

    python -m benchmarks.cpu_latents --isas x86-64-v4-vnni --out FILE

16 heads, a latent of 512, 64 dimensions that turn, 128 that do not, values of 128. Absorbed: queries into the latents' space,
attention, results out of it. Expanded: keys and values of all positions made anew by one product, attention of 16 kv heads of
192, whose values have 64 dimensions too many. Neither has rotation and cache writes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks import cpu_calls
from benchmarks.cpu_attention import attention
from kernels.cpu import kv_cache
from kernels.paged_attention.spec import scratch_shapes
from kernels.quant_matmul.spec import random_weight
from kernels.spec import Arguments, Call, CpuCall, Program
from runtime.buffers import zeros

#: name -> (tokens in the cache, new tokens) of each sequence
CASES: dict[str, list[tuple[int, int]]] = {
    "prefill of 512": [(512, 512)],
    "last 128 of 2048": [(2048, 128)],
    "decode at 1500": [(1500, 1)],
    "decode at 8000": [(8000, 1)],
    "decode of 32 at 160": [(160, 1)] * 32,
}
HEADS, RANK, ROTARY, NOPE, VALUE = 16, 512, 64, 128, 128


def absorbed(kv: str, sequences: Sequence[tuple[int, int]], block_size: int) -> Program:
    rng = np.random.default_rng(0)
    shape = attention(kv, sequences, block_size, 1, 1, 16).calls[0].arguments
    tables = {name: shape[name] for name in ("block_tables", "seq_lens", "cu_seqlens_q")}
    num_tokens, context = sum(new for _, new in sequences), sum(length for length, _ in sequences)
    num_blocks = sum(-(-length // block_size) for length, _ in sequences)
    cache = kv_cache.stored_latents(kv, rng.standard_normal((num_blocks, block_size, RANK + ROTARY), np.float32))
    q, q_latent, attended, out = (
        zeros((num_tokens, HEADS, width), np.float32) for width in (NOPE + ROTARY, RANK + ROTARY, RANK, VALUE)
    )
    for x in (q, q_latent):
        x[:] = rng.standard_normal(x.shape, np.float32)
    up, down = (rng.standard_normal((HEADS, *shape), np.float32) / 16 for shape in ((NOPE, RANK), (RANK, VALUE)))
    scratch = scratch_shapes(HEADS, HEADS, RANK, context, len(sequences))
    room: Arguments = {"partials": zeros(scratch["partials"], np.float32), "arrived": zeros(scratch["arrived"], np.int32)}
    calls: tuple[CpuCall, ...] = (
        Call("head_matmul", {"x": q, "weight": up, "out": q_latent}, {"T": "T"}),
        Call(
            f"paged_attention_latent_{kv}",
            {"q": q_latent, **cache, **tables, **room, "out": attended, "scale": 0.07},
            {"T": "T", "S": "S"},
        ),
        Call("head_matmul", {"x": attended, "weight": down, "out": out}, {"T": "T"}),
    )
    return Program(calls, {"T": np.array([num_tokens], np.int64), "S": np.array([len(sequences)], np.int64)})


def expanded(kv: str, sequences: Sequence[tuple[int, int]], block_size: int) -> Program:
    rng = np.random.default_rng(0)
    program = attention(kv, sequences, block_size, HEADS, HEADS, NOPE + ROTARY)
    context = sum(length for length, _ in sequences)
    rows = HEADS * (NOPE + VALUE)
    x, out = zeros((context, RANK), np.float32), zeros((context, rows), np.float32)
    x[:] = rng.standard_normal(x.shape, np.float32)
    weight = random_weight(rng, "fp32", rows, RANK, 32)
    product: CpuCall = Call("quant_matmul_fp32", {"x": x, **weight, "bias": None, "out": out}, {"T": "context"})
    return Program((product, *program.calls), {**program.counters, "context": np.array([context], np.int64)})


def main() -> None:
    parser = cpu_calls.arguments(__doc__)
    parser.add_argument("--kv", default="bf16", choices=list(kv_cache.LATENT_STORAGE))
    parser.add_argument("--block-size", type=int, default=32)
    options = parser.parse_args()
    cases = (
        (f"{case}, {form.__name__}", form(options.kv, sequences, options.block_size))
        for case, sequences in CASES.items()
        for form in (absorbed, expanded)
    )
    cpu_calls.compare(cases, options)


if __name__ == "__main__":
    main()
