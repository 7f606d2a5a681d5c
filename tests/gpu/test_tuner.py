"""Tuning where the GPU is: candidates are measured, not modelled."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernels.compile.cross_compile import CrossCompiler
from kernels.registry import plan_call
from tests.gpu.on_device import Gpu

pytestmark = pytest.mark.gpu


def test_candidates_are_measured(gpu: Gpu, compiler: CrossCompiler, tmp_path: Path) -> None:
    for package in ("pydantic", "optuna"):
        pytest.importorskip(package, reason=f"the tuner needs {package}; see docs/gpu.md")
    from optimizer.records.ledger import Ledger
    from optimizer.records.progress import Reporter
    from optimizer.tuning.gpu import GpuTuner
    from optimizer.tuning.gpu.measurement import measurer_for
    from optimizer.tuning.gpu.representative import representatives
    from search_spaces.space import device, device_names, load_space

    name = next((name for name in device_names() if device(name).arch == gpu.target.arch.name), None)
    if name is None or measurer_for(gpu.target) is None:
        pytest.skip(f"nothing measures on {gpu.target.arch.name}")
    ledger = Ledger(f"sqlite:///{tmp_path / 'study.db'}", "test")
    tuner = GpuTuner(device(name), gpu.target, load_space(kind="gpu").kernels, compiler, ledger, Reporter())
    symbols = ("gpu_matmul", "gpu_paged_attention_act", "gpu_rms_norm")
    calls = [next(representatives(symbol, (16,))).problem for symbol in symbols]
    tuned = {found.symbol: found for found in tuner.tune(calls, top_k=3).values()}
    for call in calls:
        found = tuned[call.symbol]
        assert found.measured and found.time_us > 0
        plan_call(call, gpu.target, found.point)
