"""From a call of sampling to its launch."""

from __future__ import annotations

from kernels.gpu.launch import Launch, OpPlan, Problem, Ptr, TensorMeta
from kernels.gpu.target import Target
from kernels.gpu.tuning import Point

#: Logits of a row that a filter may pass on before the whole row is searched instead.
CAPACITY = 8192


def plan(problem: Problem, point: Point, target: Target) -> OpPlan:
    num_rows, vocab_size = problem["logits"].shape
    names = ("logits", "temperatures", "top_ks", "top_ps", "min_ps", "seeds", "positions", "token_ids", "values", "ids")
    launch = Launch(
        "sampling",
        "sample_kernel",
        (num_rows, 1, 1),
        {f"{name}_ptr": Ptr(name) for name in names},
        {"V": vocab_size, "LOGITS_STRIDE": problem["logits"].strides[0], "CAPACITY": CAPACITY, "BLOCK": point["block"]},
        point["num_warps"],
        num_stages=1,
    )
    workspaces = {
        "values": TensorMeta.contiguous("f32", num_rows, CAPACITY),
        "ids": TensorMeta.contiguous("i32", num_rows, CAPACITY),
    }
    return OpPlan((launch,), workspaces)
