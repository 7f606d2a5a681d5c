"""From a call of head_matmul to its launch."""

from __future__ import annotations

from kernels.gpu.launch import DTYPES, I32, Launch, OpPlan, Problem, Ptr
from kernels.gpu.target import Target
from kernels.gpu.tuning import Point


def plan(problem: Problem, point: Point, target: Target) -> OpPlan:
    x, out, (heads, n, k) = problem["x"], problem["out"], problem["weight"].shape
    tokens, _, x_width = x.shape
    out_width, block_m, block_n, block_k = out.shape[2], point["block_m"], point["block_n"], point["block_k"]
    if x_width < k or out_width < n:
        raise ValueError(
            f"W is {n} x {k} per head: rows of x must have at least {k} columns and of out {n}; got {x_width}, {out_width}"
        )
    launch = Launch(
        "head_matmul",
        "head_matmul_kernel",
        # Tiles of the same tokens follow one another.
        (-(-tokens // block_m) * -(-n // block_n), heads, 1),
        {"x_ptr": Ptr("x"), "weight_ptr": Ptr("weight"), "out_ptr": Ptr("out"), "T": I32(tokens)},
        {
            "N": n,
            "K": k,
            "X_STRIDE": x.strides[0],
            "X_WIDTH": x_width,
            "OUT_STRIDE": out.strides[0],
            "OUT_WIDTH": out_width,
            "BLOCK_M": block_m,
            "BLOCK_N": block_n,
            "BLOCK_K": block_k,
            "SWAP": bool(point["swap"]),
        },
        point["num_warps"],
        point["num_stages"],
        streamed_bytes=(block_m + block_n) * block_k * DTYPES[x.dtype][0],
    )
    return OpPlan((launch,))
