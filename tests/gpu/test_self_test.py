"""A table of frozen kernels and its recorded results, written, read again, and tried on the device; and a wrong one refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kernels import registry
from kernels.compile.cross_compile import CrossCompiler
from kernels.gpu import self_test
from kernels.gpu.refusals import SelfTestFailed
from kernels.gpu.self_test import Check, Recorded
from tests.gpu.on_device import Gpu
from tests.kernels.gpu import contract

pytestmark = pytest.mark.gpu


def _checks(gpu: Gpu) -> list[Check]:
    """The first case of every entry point that the device can run, at its default point."""
    checks = []
    for symbol, spec in registry.specs("gpu").items():
        call = contract.call(spec.typed("bf16"), spec.cases[0])
        if gpu.legal(call):
            checks.append(Check(symbol, "bf16", spec.cases[0], registry.gpu_tuning(spec.op).default(call, gpu.target)))
    return checks


def test_recorded_results_are_met_on_the_device(gpu: Gpu, compiler: CrossCompiler, tmp_path: Path) -> None:
    checks = _checks(gpu)
    self_test.write([check.record() for check in checks], tmp_path)
    launcher = gpu.launcher(compiler, [check.plan(gpu.target)[0] for check in checks])
    self_test.self_test(launcher.run, self_test.read(tmp_path), gpu.target, gpu.torch_device)


def test_a_kernel_that_computes_something_else_is_refused(gpu: Gpu, compiler: CrossCompiler) -> None:
    check = next(check for check in _checks(gpu) if check.symbol == "gpu_rms_norm")
    recorded = check.record()
    wrong = {name: replace(of, values=of.values + 1) for name, of in recorded.expected.items()}
    launcher = gpu.launcher(compiler, [check.plan(gpu.target)[0]])
    with pytest.raises(SelfTestFailed, match="gpu_rms_norm"):
        self_test.self_test(launcher.run, [Recorded(check, recorded.inputs_sha256, wrong)], gpu.target, gpu.torch_device)
