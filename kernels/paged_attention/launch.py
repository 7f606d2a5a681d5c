"""From a call of paged_attention to its launches: one over tiles of query tokens, or, for decoding, over splits of the keys.

One launch per step must serve any mix of sequences under a grid that follows from shapes alone. With several query tokens per
sequence a program takes a tile of them, decoding sequences included, whose tile has one token. With one query token there are
too few tiles for a GPU: their keys are split, as many ways as fill it, and a second launch merges the parts.
"""

from __future__ import annotations

from kernels.gpu.launch import DTYPES, I32, Constant, Descriptor, Launch, OpPlan, Problem, Ptr, RuntimeArgument, TensorMeta
from kernels.gpu.target import Target
from kernels.gpu.tuning import Point

#: A merge reads the parts of a head together, in chunks.
MAX_SPLITS = 64
_MERGE_CHUNK = 16


def plan(problem: Problem, point: Point, target: Target) -> OpPlan:
    q, out, tables = problem["q"], problem["out"], problem["block_tables"]
    num_kv_heads = problem["k_cache"].shape[2]
    num_tokens, num_heads, head_dim = q.shape
    group = num_heads // num_kv_heads
    num_seqs = tables.shape[0]
    arguments: dict[str, RuntimeArgument] = {
        "q_ptr": Ptr("q"),
        "k": _cache("k_cache", problem, point),
        "v": _cache("v_cache", problem, point),
        "block_tables_ptr": Ptr("block_tables"),
        "seq_lens_ptr": Ptr("seq_lens"),
        "cu_seqlens_q_ptr": Ptr("cu_seqlens_q"),
        "out_ptr": Ptr("out"),
    }
    constants: dict[str, Constant] = {
        "SCALE": float(problem.scalars["scale"]),
        "SOFTCAP": float(problem.scalars["softcap"]),
        "WINDOW": int(problem.scalars["window"]),
        "GROUP": group,
        "D": head_dim,
        "BLOCK_D": padded(head_dim),
        "BLOCK_M": point["BLOCK_M"],
        "TILE": point["TILE"],
        "BLOCK_SIZE": problem["k_cache"].shape[1],
        "Q_STRIDE": q.strides[0],
        "OUT_STRIDE": out.strides[0],
        "TABLE_STRIDE": tables.strides[0],
        "SLOT_STRIDE": problem["k_cache"].strides[1],
        "SCALE_STRIDE": problem["k_scales"].strides[1] if "k_scales" in problem else 0,
        "USE_TMA": bool(point["USE_TMA"]),
        "PACKED_INT8": target.arch.backend == "cuda",
        "F16_OPERANDS": problem["k_cache"].dtype != q.dtype,
    }
    for name in ("k_scales", "v_scales"):
        if name in problem:
            arguments[f"{name}_ptr"] = Ptr(name)
        else:
            constants[f"{name}_ptr"] = None
    # Where a model has none nothing is said of them, so that a kernel is found that was frozen before there were any.
    if "sinks" in problem:
        arguments["sinks_ptr"] = Ptr("sinks")

    def launch(function: str, grid: tuple[int, int, int]) -> Launch:
        return Launch(
            "paged_attention",
            function,
            grid,
            arguments,
            constants,
            point["num_warps"],
            point["num_stages"],
            # Left alone, the assembler spills a few registers of these to fit one more program on a multiprocessor.
            maxnreg=255 if target.arch.backend == "cuda" and "k_scales" in problem and decodes(problem) else None,
            streamed_bytes=2 * point["TILE"] * head_dim * DTYPES[problem["k_cache"].dtype][0],
        )

    if not decodes(problem):
        arguments["num_seqs"] = I32(num_seqs)
        tiles = num_tokens // (point["BLOCK_M"] // group) + num_seqs if num_tokens else 0
        return OpPlan((launch("prefill_kernel", (tiles, num_kv_heads, 1)),))

    splits = num_splits(problem, point, target)
    arguments["num_splits"] = I32(splits)
    grid = (num_kv_heads, splits, num_seqs)
    if splits == 1:
        constants |= {"maxima_ptr": None, "sums_ptr": None, "partials_ptr": None}
        return OpPlan((launch("decode_kernel", grid),))
    parts: dict[str, RuntimeArgument] = {f"{name}_ptr": Ptr(name) for name in ("maxima", "sums", "partials")}
    arguments |= parts
    shared = ("seq_lens_ptr", "cu_seqlens_q_ptr", "out_ptr", "num_splits")
    merge = Launch(
        "paged_attention",
        "merge_kernel",
        (num_heads, num_seqs, 1),
        {**parts, **{name: arguments[name] for name in shared}},
        {name: constants[name] for name in ("WINDOW", "D", "BLOCK_D", "TILE", "OUT_STRIDE")}
        | {"MAX_SPLITS": MAX_SPLITS, "CHUNK": _MERGE_CHUNK},
        num_warps=4,
        num_stages=1,
    )
    per_head = TensorMeta.contiguous("f32", num_seqs, num_heads, splits)
    partials = TensorMeta.contiguous("f32", *per_head.shape, head_dim)
    return OpPlan((launch("decode_kernel", grid), merge), {"maxima": per_head, "sums": per_head, "partials": partials})


def decodes(problem: Problem) -> bool:
    """Whether no sequence has more than one query token."""
    return problem.scalars["max_query_len"] <= 1


def padded(head_dim: int) -> int:
    """The power of two that a block over a head has."""
    return 1 << (head_dim - 1).bit_length()


def num_splits(problem: Problem, point: Point, target: Target) -> int:
    """Into how many parts a decoding sequence's keys are cut, whatever its length: enough to fill the GPU."""
    num_seqs, max_blocks = problem["block_tables"].shape
    _, block_size, num_kv_heads, _ = problem["k_cache"].shape
    longest, window = max_blocks * block_size, int(problem.scalars["window"])
    if window:
        # A window may begin and end within a tile.
        longest = min(longest, window + point["TILE"] - 1)
    filling = -(-target.num_sms * point["PROGRAMS_PER_SM"] // max(1, num_seqs * num_kv_heads))
    return max(1, min(filling, -(-longest // point["TILE"]), MAX_SPLITS))


def _cache(name: str, problem: Problem, point: Point) -> RuntimeArgument:
    num_blocks, block_size, num_kv_heads, head_dim = problem[name].shape
    if not point["USE_TMA"]:
        return Ptr(name)
    shape = (num_blocks * block_size, num_kv_heads * head_dim)
    return Descriptor(name, shape, (problem[name].strides[1], 1), (point["TILE"], head_dim))
