"""The contract has teeth: every seeded bug fails it, on a case that the kernel as it is passes (test_interpreted)."""

from __future__ import annotations

from collections import Counter
from importlib import import_module
from pathlib import Path

import pytest

from kernels import registry
from kernels.interpreter import Interpreter
from tests.kernels.gpu import contract
from tests.kernels.gpu.mutations import Mutation

MUTATIONS: list[Mutation] = [
    mutation
    for path in sorted(Path(__file__).parent.glob("mutations_*.py"))
    for mutation in import_module(f"tests.kernels.gpu.{path.stem}").MUTATIONS
]


def test_every_op_has_seeded_bugs() -> None:
    counts = Counter(mutation.op for mutation in MUTATIONS)
    assert counts.keys() == set(registry.ops("gpu"))
    assert counts.total() >= 40 and min(counts.values()) >= 3


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: f"{mutation.op}: {mutation.name}")
def test_seeded_bug_is_caught(mutation: Mutation, tmp_path: Path) -> None:
    spec = registry.spec(mutation.symbol).typed("f16")
    case = next(case for case in spec.cases if case.name == mutation.case)
    assert contract.violations(spec, case, Interpreter({mutation.op: mutation.module(tmp_path)}).run)
