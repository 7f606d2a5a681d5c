"""From a call of mla_rope_and_cache to its launch."""

from __future__ import annotations

from kernels.gpu.launch import Constant, Launch, OpPlan, Problem, Ptr, RuntimeArgument
from kernels.gpu.target import Target
from kernels.gpu.tuning import Point

_POINTERS = ("q", "kv", "cos", "sin", "positions", "slot_mapping", "q_latent", "cache")


def plan(problem: Problem, point: Point, target: Target) -> OpPlan:
    q, kv, q_latent = problem["q"], problem["kv"], problem["q_latent"]
    (tokens, heads, q_width), rotary = q.shape, 2 * problem["cos"].shape[1]
    rank = kv.shape[1] - rotary
    arguments: dict[str, RuntimeArgument] = {f"{name}_ptr": Ptr(name) for name in _POINTERS}
    constants: dict[str, Constant] = {
        "H": heads,
        "R": rank,
        "P": rotary,
        "Q_WIDTH": q_width,
        "Q_STRIDE": q.strides[0],
        "KV_STRIDE": kv.strides[0],
        "Q_LATENT_STRIDE": q_latent.strides[0],
        "BLOCK_H": point["block_h"],
        "BLOCK_R": 1 << (rank - 1).bit_length(),
    }
    grid = (tokens, -(-heads // point["block_h"]) + 1, 1)
    launch = Launch(
        "mla_rope_and_cache", "mla_rope_and_cache_kernel", grid, arguments, constants, point["num_warps"], num_stages=1
    )
    return OpPlan((launch,))
