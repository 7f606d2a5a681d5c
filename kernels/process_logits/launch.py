"""From a call of process_logits or count_tokens to its launches."""

from __future__ import annotations

from kernels.gpu.launch import Launch, OpPlan, Problem, Ptr
from kernels.gpu.rows import block_of
from kernels.gpu.target import Target
from kernels.gpu.tuning import Point

_OP = "process_logits"


def plan(problem: Problem, point: Point, target: Target) -> OpPlan:
    seen_stride = problem["seen"].strides[0]
    if problem.symbol == "gpu_count_tokens":
        arguments = {f"{name}_ptr": Ptr(name) for name in ("token_ids", "slots", "seen")}
        grid = (problem["token_ids"].shape[0], 1, 1)
        return OpPlan((Launch(_OP, "count_tokens_kernel", grid, arguments, {"SEEN_STRIDE": seen_stride}, num_warps=1),))
    num_rows, vocab_size = problem["logits"].shape
    num_biases = problem["bias_ids"].shape[1]
    stride, block = problem["logits"].strides[0], point["block"]
    bias = Launch(
        _OP,
        "bias_kernel",
        (num_rows, 1, 1),
        {f"{name}_ptr": Ptr(name) for name in ("logits", "bias_ids", "biases")},
        {
            "LOGITS_STRIDE": stride,
            "BIAS_IDS_STRIDE": problem["bias_ids"].strides[0],
            "BIASES_STRIDE": problem["biases"].strides[0],
            "NUM_BIASES": num_biases,
            "BLOCK": block_of(num_biases),
        },
        num_warps=1,
    )
    penalties = ("repetition_penalties", "frequency_penalties", "presence_penalties")
    penalize = Launch(
        _OP,
        "penalties_kernel",
        (num_rows, -(-vocab_size // block), 1),
        {f"{name}_ptr": Ptr(name) for name in ("logits", "slots", "seen", *penalties)},
        {"V": vocab_size, "LOGITS_STRIDE": stride, "SEEN_STRIDE": seen_stride, "BLOCK": block},
        point["num_warps"],
        num_stages=1,
    )
    return OpPlan((bias, penalize))
