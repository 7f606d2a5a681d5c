"""From a call of a gated activation to its launch."""

from __future__ import annotations

from kernels.gpu.launch import Constant, Launch, OpPlan, Problem, Ptr, RuntimeArgument
from kernels.gpu.target import Target
from kernels.gpu.tuning import Point
from kernels.quantize_activations.output import form_of


def plan(problem: Problem, point: Point, target: Target) -> OpPlan:
    x, form, block = problem["x"], form_of(problem.symbol), point["block"]
    is_apart = "gate" in problem
    num_tokens, width = x.shape[0], x.shape[1] // (1 if is_apart else 2)
    outputs, form_constants = form.launch_arguments(problem)
    arguments: dict[str, RuntimeArgument] = {"x_ptr": Ptr("x"), **outputs}
    constants: dict[str, Constant] = {
        "F": width,
        "X_STRIDE": x.strides[0],
        "ACTIVATION": problem.symbol.removeprefix("gpu_").partition("_gate" if is_apart else "_and_mul")[0],
        **{name.upper(): float(value) for name, value in problem.scalars.items()},
        "BLOCK": block,
        **form_constants,
    }
    if is_apart:
        arguments["gate_ptr"], constants["GATE_STRIDE"] = Ptr("gate"), problem["gate"].strides[0]
        function, programs, streamed_bytes = "gate_kernel", -(-width // block), 0
    elif form.scaling == "row" and block < width:
        function, programs, streamed_bytes = "gated_long_row_kernel", 1, 4 * block
    else:
        function, programs, streamed_bytes = "gated_kernel", -(-width // block), 0
    launch = Launch(
        "silu_and_mul",
        function,
        (num_tokens, programs, 1),
        arguments,
        constants,
        point["num_warps"],
        num_stages=1,
        streamed_bytes=streamed_bytes,
    )
    return OpPlan((launch,))
