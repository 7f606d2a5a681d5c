"""The contract suite on the device: every entry point, every case, bf16 and f16, through the launcher as in service."""

from __future__ import annotations

import pytest

from kernels.compile.cross_compile import CrossCompiler
from kernels.gpu.launcher import Launcher
from kernels.spec import Case, OpSpec
from tests.gpu.on_device import Gpu
from tests.kernels.gpu import contract

pytestmark = pytest.mark.gpu

ACTS = ("bf16", "f16")
CASES = [pytest.param(spec, case, id=f"{spec.symbol}-{case.name}-{act}") for act in ACTS for spec, case in contract.cases(act)]


@pytest.fixture(scope="module")
def launcher(gpu: Gpu, compiler: CrossCompiler) -> Launcher:
    """The kernels of all cases that the device can run."""
    calls = [contract.call(spec, case) for act in ACTS for spec, case in contract.cases(act)]
    return gpu.launcher(compiler, [call for call in calls if gpu.legal(call)])


@pytest.mark.parametrize(("spec", "case"), CASES)
def test_kernel_agrees_with_reference(spec: OpSpec, case: Case, gpu: Gpu, launcher: Launcher) -> None:
    if not gpu.legal(contract.call(spec, case)):
        pytest.skip(f"{gpu.target.arch.name} cannot run {spec.symbol}")
    assert not contract.violations(spec, case, gpu.run(launcher), target=gpu.target)
