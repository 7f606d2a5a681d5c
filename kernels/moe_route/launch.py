"""From a call of moe_route to its launches."""

from __future__ import annotations

from kernels.gpu.launch import F32, I32, Constant, Launch, OpPlan, Problem, Ptr, RuntimeArgument, TensorMeta
from kernels.gpu.target import Target
from kernels.gpu.tuning import Point


def max_blocks(num_pairs: int, num_experts: int, block_m: int) -> int:
    """The most blocks that `num_pairs` pairs can need: every expert that has any may leave its last block all but empty."""
    return (num_pairs + min(num_experts, num_pairs) * (block_m - 1)) // block_m


def plan(problem: Problem, point: Point, target: Target) -> OpPlan:
    if problem.symbol == "gpu_moe_logits":
        return _logits(problem, point)
    return OpPlan((_align(problem, point) if problem.symbol == "gpu_moe_align" else _route(problem, point),))


def _power_of_2(extent: int) -> int:
    return 1 << (extent - 1).bit_length()


def _logits(problem: Problem, point: Point) -> OpPlan:
    x, (experts, k) = problem["x"], problem["weight"].shape
    tokens, splits, block_k = x.shape[0], point["num_splits"], point["block_k"]
    constants: dict[str, Constant] = {
        "K": k,
        "E": experts,
        "X_STRIDE": x.strides[0],
        "K_PER_SPLIT": -(-k // (splits * block_k)) * block_k,
        "BLOCK_T": point["block_t"],
        "BLOCK_E": point["block_e"],
        "BLOCK_K": block_k,
    }
    written = "out" if splits == 1 else "partial"
    arguments: dict[str, RuntimeArgument] = {
        "x_ptr": Ptr("x"),
        "weight_ptr": Ptr("weight"),
        "out_ptr": Ptr(written),
        "T": I32(tokens),
    }
    if "bias" in problem:
        arguments["bias_ptr"] = Ptr("bias")
    tile = Launch(
        "moe_route",
        "logits_kernel",
        (-(-tokens // point["block_t"]), -(-experts // point["block_e"]), splits),
        arguments,
        constants,
        point["num_warps"],
        point["num_stages"],
        streamed_bytes=2 * (point["block_t"] + point["block_e"]) * block_k,
    )
    if splits == 1:
        return OpPlan((tile,))
    elements = tokens * experts
    total = Launch(
        "moe_route",
        "sum_splits_kernel",
        (-(-elements // 512), 1, 1),
        {"partial_ptr": Ptr("partial"), "out_ptr": Ptr("out"), "num_elements": I32(elements)},
        {"SPLITS": splits, "BLOCK": 512},
    )
    return OpPlan((tile, total), {"partial": TensorMeta.contiguous("f32", splits, tokens, experts)})


def _route(problem: Problem, point: Point) -> Launch:
    logits, (tokens, top_k) = problem["logits"], problem["topk_ids"].shape
    experts, num_groups, topk_groups = logits.shape[1], problem.scalars["num_groups"], problem.scalars["topk_groups"]
    arguments: dict[str, RuntimeArgument] = {
        "logits_ptr": Ptr("logits"),
        "ids_ptr": Ptr("topk_ids"),
        "weights_ptr": Ptr("topk_weights"),
        "routed_scale": F32(float(problem.scalars["routed_scale"])),
    }
    # Where all groups may be chosen from there is one.
    groups = 1 if num_groups == topk_groups else int(num_groups)
    constants: dict[str, Constant] = {
        "E": experts,
        "TOP_K": top_k,
        "LOGITS_STRIDE": logits.strides[0],
        "SIGMOID": "bias" in problem,
        "RENORMALIZE": bool(problem.scalars["renormalize"]),
        "NUM_GROUPS": groups,
        "TOP_GROUPS": min(groups, int(topk_groups)),
        "BLOCK_G": _power_of_2(groups),
        "BLOCK_P": _power_of_2(experts // groups),
        "BLOCK_K": _power_of_2(top_k),
    }
    if "bias" in problem:
        arguments["bias_ptr"] = Ptr("bias")
    else:
        constants["bias_ptr"] = None
    if "expert_scales" in problem:
        arguments["scales_ptr"] = Ptr("expert_scales")
    return Launch("moe_route", "route_kernel", (tokens, 1, 1), arguments, constants, point["num_warps"], num_stages=1)


def _align(problem: Problem, point: Point) -> Launch:
    pairs = problem["topk_ids"].shape[0] * problem["topk_ids"].shape[1]
    experts, (num_blocks, block_m) = int(problem.scalars["num_experts"]), problem["sorted_ids"].shape
    needed = max_blocks(pairs, experts, block_m)
    if num_blocks < needed:
        raise ValueError(f"{pairs} pairs may need {needed} blocks of {block_m}; sorted_ids has {num_blocks}: make it longer")
    return Launch(
        "moe_route",
        "align_kernel",
        (experts, 1, 1),
        {
            "ids_ptr": Ptr("topk_ids"),
            "sorted_ids_ptr": Ptr("sorted_ids"),
            "expert_ids_ptr": Ptr("expert_ids"),
            "num_padded_ptr": Ptr("num_padded"),
            "num_pairs": I32(pairs),
        },
        {"E": experts, "BLOCK_M": block_m, "BLOCK_E": _power_of_2(experts), "CHUNK": point["chunk"]},
        point["num_warps"],
        num_stages=1,
    )
