"""What tests/gpu does on a device, against the stand-in driver of CUDA 12: every op is compiled, loaded and launched.

The stand-in computes nothing. That arguments, grids and parameter sizes reach it as the cubins want them is checked here.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from kernels import registry
from kernels.compile.cross_compile import CrossCompiler
from kernels.gpu.cubin import Cubin
from kernels.gpu.cuda import CudaDriver
from kernels.gpu.kernel_source import kernel_sources
from kernels.gpu.oracle import values
from kernels.gpu.tensors import problem
from tests.gpu.on_device import Gpu
from tests.kernels.gpu import contract, samples
from tests.kernels.gpu.compiling import compile_all


@pytest.mark.parametrize("symbol", registry.specs("gpu"))
def test_every_entry_point_is_launched_as_planned(
    symbol: str, compiler: CrossCompiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = registry.spec(symbol).typed("bf16")
    made = values(spec, contract.make(spec, spec.cases[0]))
    call = problem(spec, made)
    plan = registry.plan_call(call, contract.TARGET)
    kernels = compile_all(compiler, kernel_sources(plan, call, contract.TARGET.arch.name))
    sizes = {
        name: ",".join(str(parameter.size) for parameter in entry.parameters)
        for kernel in kernels
        for name, entry in Cubin.parse(kernel.image).entries.items()
    }
    monkeypatch.setenv("FAKE_CUDA_PARAMETERS", ";".join(f"{name}:{listed}" for name, listed in sizes.items()))
    monkeypatch.setenv("FAKE_CUDA_VERSION", "12040")
    monkeypatch.setenv("FAKE_CUDA_LOG", str(tmp_path / "log"))

    gpu = Gpu(CudaDriver(library=str(samples.fake_driver())), contract.TARGET, "cpu")
    gpu.run(gpu.launcher(compiler, [call]))(plan, contract.tensors(spec, made))

    log = (tmp_path / "log").read_text().splitlines()
    launched = [line.split()[1:3] for line in log if line.startswith("launch ")]
    entries = [kernel.metadata.entry for kernel in kernels]
    grids = [f"grid={','.join(map(str, launch.grid))}" for launch in plan.launches]
    assert launched == [list(pair) for pair in zip(entries, grids, strict=True)]
