"""How far is every GPU kernel from what memory and the matrix units allow?

    python -m benchmarks.gpu_roofline [--out FILE] [--device h100] [--symbols gpu_matmul ...] [--tokens 1 16 64 2048]

On a machine with the GPU: compiles every entry point at its default point for calls of real models, measures each as a graph by
CUDA events with L2 flushed, and prints JSON. The roofline of a call is the larger of its bytes over the bandwidth and its
operations over the peak, both of the device's data sheet; `fraction` is that over the measured time. What a call must move and
compute is its spec's own count. Without --device it is the first known device of the GPU's architecture.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from kernels.compile.cross_compile import CrossCompiler
from kernels.gpu.kernel_source import kernel_sources
from kernels.gpu.launch import Problem
from kernels.gpu.target import Target
from kernels.registry import gpu_tuning, plan_call, spec, specs
from optimizer.records.progress import Reporter
from optimizer.tuning.gpu.compiled import CompiledKernels
from optimizer.tuning.gpu.inputs import sample_tensors
from optimizer.tuning.gpu.measurement import CudaMeasurer, Measurer
from optimizer.tuning.gpu.representative import TOKENS, representatives
from search_spaces.schema import Device
from search_spaces.space import device, device_names

#: of every decoding sequence
CONTEXT_TOKENS = 1024


@dataclass(frozen=True)
class Row:
    """A measured call. `bound` says which side of the roofline it is on."""

    symbol: str
    call: str
    point: dict[str, int]
    time_us: float
    roofline_us: float
    bound: str
    fraction: float


def roofline_us(problem: Problem, on: Device) -> tuple[float, str]:
    """The least time of a call on a device by its data sheet, in microseconds, and whether memory or compute sets it."""
    contract = spec(problem.symbol)
    optional = {tensor.name: int(tensor.name in problem) for tensor in contract.tensors if tensor.optional}
    scalars = {name: int(value) for name, value in problem.scalars.items()}
    cost = contract.cost({"context": CONTEXT_TOKENS, **optional, **scalars, **contract.sizes(problem.tensors)})
    assert on.memory_bandwidth_gbps is not None
    memory = cost.bytes / (on.memory_bandwidth_gbps.value * 1e3)
    compute = cost.flops / (on.peak_tflops[_multiplied_in(problem)].value * 1e6)
    return max(memory, compute), "memory" if memory >= compute else "compute"


def _multiplied_in(problem: Problem) -> str:
    """Data sheets' name of the dtype in which a call multiplies: that of x."""
    x = next((problem[name].dtype for name in ("x_codes", "x", "q") if name in problem), "bf16")
    return {"e4m3": "fp8", "i8": "int8", "f16": "fp16"}.get(x, "bf16")


def measured(
    symbols: Sequence[str], tokens: Sequence[int], on: Device, target: Target, compiler: CrossCompiler, measurer: Measurer
) -> Iterator[Row]:
    """Every representative call that is legal on `target`, at its default point."""
    kernels = CompiledKernels(compiler, Reporter())
    for symbol in symbols:
        tuning = gpu_tuning(spec(symbol).op)
        for call in representatives(symbol, tokens):
            point = dict(tuning.default(call.problem, target))
            if tuning.refusal(call.problem, point, target) is not None:
                continue
            plan = plan_call(call.problem, target, point)
            sources = list(kernel_sources(plan, call.problem, target.arch.name))
            kernels.records(sources)
            tensors = sample_tensors(call.problem, CONTEXT_TOKENS, measurer.device)
            (time_us,) = measurer.times_us([plan], kernels.frozen(sources), tensors)
            least, bound = roofline_us(call.problem, on)
            yield Row(symbol, call.name, point, time_us, least, bound, least / time_us)


def known_device(arch: str) -> Device:
    """The first known device of an architecture; ValueError if there is none."""
    found = next((known for name in device_names() if (known := device(name)).arch == arch), None)
    if found is None:
        raise ValueError(f"no known device is {arch}; name one with --device, or add it to search_spaces/devices")
    return found


def main() -> None:
    import torch

    from kernels.gpu.cuda import CudaDriver

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--device", choices=device_names())
    parser.add_argument("--symbols", nargs="+", default=list(specs("gpu")), choices=list(specs("gpu")))
    parser.add_argument("--tokens", nargs="+", type=int, default=list(TOKENS))
    arguments = parser.parse_args()
    here = CudaDriver().device
    on = device(arguments.device) if arguments.device else known_device(here.arch)
    target = Target.of(here.arch, here.num_sms)
    with CrossCompiler() as compiler:
        rows = [asdict(row) for row in measured(arguments.symbols, arguments.tokens, on, target, compiler, CudaMeasurer())]
    ran_on = {**asdict(here), "torch": torch.__version__}
    text = json.dumps({"ran_on": ran_on, "roofline_of": on.name, "rows": rows}, indent=1)
    if arguments.out:
        arguments.out.write_text(text + "\n", encoding="utf-8")
    else:
        sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
