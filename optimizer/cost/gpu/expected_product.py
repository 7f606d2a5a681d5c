"""How long a matrix product takes at its best point, in absolute terms: what fraction of a device's peaks others have measured.

The tile model of `matmul_time` orders tiles; its constants were fitted to order, and its microseconds are not to be added up.
Here the time is that of the binding peak over the median fraction of it that products reach on an H100, by aiconfigurator's
public measurements (Apache-2.0; NVIDIA's data sheet as the peak): other GPUs are taken to reach the same fractions.
"""

from __future__ import annotations

from kernels.gpu.launch import Problem
from optimizer.cost.gpu.facts import GpuFacts
from optimizer.cost.gpu.memory_time import start_us
from optimizer.cost.gpu.problem import OF_EXPERTS, filled

#: median fraction of the bandwidth at 64 rows and fewer
_BANDWIDTH_FRACTION = 0.79
#: median fraction of the peak arithmetic at 2048 rows and more; experts are those of Triton's kernels in bf16
_FLOPS_FRACTIONS = {"bf16": 0.79, "fp8": 0.54, "fp8_block": 0.61, "experts": 0.52}


def expected_us(problem: Problem, gpu: GpuFacts) -> float | None:
    """Microseconds of a product, from the start of its launch on; None for a call that is none."""
    weight = problem.tensors.get("weight") or problem.tensors.get("codes")
    x = problem.tensors.get("x") or problem.tensors.get("x_codes")
    if weight is None or x is None or "matmul" not in problem.symbol or "out" not in problem:
        return None
    experts = problem.symbol.startswith("gpu_moe_matmul")
    rows = problem["out"].shape[0] * (problem["out"].shape[1] if experts else 1)
    flops = 2.0 * rows * x.shape[-1] * problem["out"].shape[-1]
    num_bytes = float(sum(tensor.nbytes for tensor in problem.tensors.values()))
    if experts:
        # Read are the matrices of the experts that have tokens.
        tokens, top_k, _ = problem["out"].shape
        unread = 1 - filled(max(tokens, 1), top_k, weight.shape[0], 1)[1] / weight.shape[0]
        num_bytes -= unread * sum(problem[name].nbytes for name in OF_EXPERTS if name in problem)
    peak, fraction = _peak(problem, gpu)
    if experts:
        fraction = min(fraction, _FLOPS_FRACTIONS["experts"])
    memory_us = num_bytes / (gpu.memory_bandwidth_gbps * 1e3 * _BANDWIDTH_FRACTION)
    return start_us(gpu) + max(memory_us, flops / (peak * 1e6 * fraction))


def _peak(problem: Problem, gpu: GpuFacts) -> tuple[float, float]:
    """TFLOP/s of the units that multiply, and the fraction of them that is reached."""
    x = problem.tensors.get("x_codes")
    kind = "bf16" if x is None else {"i8": "int8", "e4m3": "fp8"}[x.dtype]
    peak = gpu.flops_per_clock[gpu.computes(kind)] * gpu.num_sms * gpu.clock_ghz / 1e3
    if kind == "bf16":
        return peak, _FLOPS_FRACTIONS["bf16"]
    return peak, _FLOPS_FRACTIONS["fp8_block" if problem.symbol.endswith("block") else "fp8"]
