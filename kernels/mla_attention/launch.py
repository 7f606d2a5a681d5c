"""From a call of mla_attention to its launches."""

from __future__ import annotations

from math import e, log2

from kernels.gpu.launch import DTYPES, F32, I32, Constant, Launch, OpPlan, Problem, Ptr, RuntimeArgument, TensorMeta
from kernels.gpu.target import Target
from kernels.gpu.tuning import Point

_LOG2_E = log2(e)


def row_tiles(problem: Problem, block_m: int) -> int:
    """Tiles of `block_m` (token, head) rows that hold every sequence, however its tokens are spread."""
    (tokens, heads, _), num_seqs = problem["q"].shape, problem["seq_lens"].shape[0]
    if problem.scalars["max_query_len"] == 1:
        return num_seqs * -(-heads // block_m)
    return tokens * heads // block_m + num_seqs if num_seqs else 0


def plan(problem: Problem, point: Point, target: Target) -> OpPlan:
    q, out, cache, tables = problem["q"], problem["out"], problem["cache"], problem["block_tables"]
    (_, heads, width), rank, num_seqs = q.shape, out.shape[2], problem["seq_lens"].shape[0]
    splits = point["num_splits"]
    metadata: dict[str, RuntimeArgument] = {"seq_lens_ptr": Ptr("seq_lens"), "cu_seqlens_ptr": Ptr("cu_seqlens_q")}
    arguments: dict[str, RuntimeArgument] = metadata | {
        "q_ptr": Ptr("q"),
        "cache_ptr": Ptr("cache"),
        "block_tables_ptr": Ptr("block_tables"),
        "out_ptr": Ptr("out" if splits == 1 else "partial"),
        "scale_log2": F32(float(problem.scalars["scale"]) * _LOG2_E),
        "num_seqs": I32(num_seqs),
    }
    constants: dict[str, Constant] = {
        "H": heads,
        "R": rank,
        "P": width - rank,
        "Q_STRIDE": q.strides[0],
        "OUT_STRIDE": out.strides[0],
        "TABLE_STRIDE": tables.strides[0],
        "BLOCK_SIZE": cache.shape[1],
        "DECODE": problem.scalars["max_query_len"] == 1,
        "NUM_SPLITS": splits,
        "BLOCK_M": point["block_m"],
        "BLOCK_N": point["block_n"],
    }
    if splits == 1:
        constants["lse_ptr"] = None
    else:
        arguments["lse_ptr"] = Ptr("lse")
    attention = Launch(
        "mla_attention",
        "mla_attention_kernel",
        (row_tiles(problem, point["block_m"]), splits, 1),
        arguments,
        constants,
        point["num_warps"],
        point["num_stages"],
        streamed_bytes=point["block_n"] * width * DTYPES[cache.dtype][0],
    )
    if splits == 1:
        return OpPlan((attention,))
    reduction = Launch(
        "mla_attention",
        "mla_reduce_kernel",
        (num_seqs, heads, 1),
        metadata | {"partial_ptr": Ptr("partial"), "lse_ptr": Ptr("lse"), "out_ptr": Ptr("out")},
        {"H": heads, "R": rank, "OUT_STRIDE": out.strides[0], "NUM_SPLITS": splits},
        streamed_bytes=4 * rank,
    )
    workspaces = {
        "partial": TensorMeta.contiguous("f32", num_seqs, splits, heads, rank),
        "lse": TensorMeta.contiguous("f32", num_seqs, splits, heads),
    }
    return OpPlan((attention, reduction), workspaces)
