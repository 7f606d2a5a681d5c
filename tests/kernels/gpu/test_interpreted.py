"""Every GPU entry point on every case of its spec, through Triton's interpreter, at its default point."""

from __future__ import annotations

import pytest

from kernels.interpreter import Interpreter
from kernels.spec import Case, OpSpec
from tests.kernels.gpu import contract

CASES = [pytest.param(spec, case, id=f"{spec.symbol}-{case.name}") for spec, case in contract.cases("f16")]


@pytest.mark.parametrize(("spec", "case"), CASES)
def test_kernel_agrees_with_reference(spec: OpSpec, case: Case) -> None:
    assert not contract.violations(spec, case, Interpreter().run)
