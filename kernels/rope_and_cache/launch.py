"""From a call of rope_and_cache to its launch."""

from __future__ import annotations

from kernels.gpu.launch import Constant, Launch, OpPlan, Problem, Ptr, RuntimeArgument
from kernels.gpu.target import Target
from kernels.gpu.tuning import Point


def plan(problem: Problem, point: Point, target: Target) -> OpPlan:
    return _with_cache(problem, point) if "k" in problem else _alone(problem, point)


def _alone(problem: Problem, point: Point) -> OpPlan:
    q = problem["q"]
    num_tokens, num_heads, head_dim = q.shape
    half = head_dim // 2
    arguments: dict[str, RuntimeArgument] = {f"{name}_ptr": Ptr(name) for name in ("q", "cos", "sin", "positions")}
    constants: dict[str, Constant] = {"HALF": half, "Q_STRIDE": q.strides[0], "BLOCK_HALF": 1 << (half - 1).bit_length()}
    grid = (num_tokens, num_heads, 1)
    return OpPlan((Launch("rope_and_cache", "rope_kernel", grid, arguments, constants, point["num_warps"], num_stages=1),))


def _with_cache(problem: Problem, point: Point) -> OpPlan:
    q, k, v, cache = (problem[name] for name in ("q", "k", "v", "k_cache"))
    num_tokens, num_heads, head_dim = q.shape
    num_kv_heads = k.shape[1]
    group, half = num_heads // num_kv_heads, head_dim // 2
    arguments: dict[str, RuntimeArgument] = {
        f"{name}_ptr": Ptr(name) for name in ("q", "k", "v", "cos", "sin", "positions", "k_cache", "v_cache")
    }
    arguments["slots_ptr"] = Ptr("slot_mapping")
    constants: dict[str, Constant] = {
        "GROUP": group,
        "HALF": half,
        "Q_STRIDE": q.strides[0],
        "K_STRIDE": k.strides[0],
        "V_STRIDE": v.strides[0],
        "SLOT_STRIDE": cache.strides[1],
        "SCALE_STRIDE": num_kv_heads,
        "BLOCK_GROUP": 1 << (group - 1).bit_length(),
        "BLOCK_HALF": 1 << (half - 1).bit_length(),
    }
    for name in ("k_scales", "v_scales"):
        if name in problem:
            arguments[f"{name}_ptr"] = Ptr(name)
        else:
            constants[f"{name}_ptr"] = None
    grid = (num_tokens, num_kv_heads, 1)
    return OpPlan(
        (Launch("rope_and_cache", "rope_and_cache_kernel", grid, arguments, constants, point["num_warps"], num_stages=1),)
    )
