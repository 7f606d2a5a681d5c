"""Every entry point on every case of its spec: within tolerance of fp64, whatever the team, and inputs left alone."""

from __future__ import annotations

import numpy as np
import pytest

from kernels import registry
from kernels.cpu.library import Library
from kernels.spec import Case, OpSpec
from tests.kernels.accuracy import copied, make, violations
from tests.kernels.emulated import builds_of

CASES = [
    pytest.param(built, spec, case, id=f"{built}-{spec.symbol}-{case.name}")
    for spec in registry.specs().values()
    for built in builds_of(spec.op)
    for case in spec.cases
]


@pytest.mark.parametrize(("each_library", "spec", "case"), CASES, indirect=["each_library"])
def test_kernel_agrees_with_reference(each_library: Library, spec: OpSpec, case: Case) -> None:
    inputs = make(spec, case)
    outputs = copied(inputs)
    each_library.call(spec.symbol, outputs)
    assert not violations(spec, inputs, outputs)
    for tensor in spec.tensors:
        if tensor.role == "in" and inputs.get(tensor.name) is not None:
            np.testing.assert_array_equal(outputs[tensor.name], inputs[tensor.name])  # type: ignore[arg-type]


@pytest.mark.parametrize(("each_library", "spec", "case"), CASES, indirect=["each_library"])
def test_team_size_changes_no_bit(each_library: Library, spec: OpSpec, case: Case) -> None:
    alone, together = (copied(make(spec, case)) for _ in range(2))
    each_library.call(spec.symbol, alone, num_threads=1)
    each_library.call(spec.symbol, together, num_threads=3)
    for tensor in spec.tensors:
        if tensor.is_output and alone.get(tensor.name) is not None:
            assert np.asarray(alone[tensor.name]).tobytes() == np.asarray(together[tensor.name]).tobytes()
