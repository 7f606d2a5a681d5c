"""docs/adding.md, "An op": its files, put into a copy of `kernels/`, are found, built, planned and held to the contract."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import kernels
from kernels import registry
from kernels.cpu.build import default_cache, lay_out_op, lay_out_program, link
from kernels.cpu.host import host
from kernels.cpu.isa import best_isa
from kernels.cpu.library import Library
from kernels.interpreter import Interpreter
from tests.house.recipes import files_of
from tests.kernels.accuracy import copied, make, violations
from tests.kernels.gpu import contract

TOY = Path(__file__).parent / "toy_op"
OP = "relu_squared"


@pytest.fixture
def op(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The toy among the ops: `kernels/` as it is, with one folder more."""
    root = tmp_path / "kernels"
    root.mkdir()
    for entry in registry.ROOT.iterdir():
        (root / entry.name).symlink_to(entry)
    shutil.copytree(TOY, root / OP, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(registry, "ROOT", root)
    monkeypatch.setattr(kernels, "__path__", [*kernels.__path__, str(root)])
    cached = [found for found in vars(registry).values() if hasattr(found, "cache_clear")]
    try:
        for function in cached:
            function.cache_clear()
        yield OP
    finally:
        for function in cached:
            function.cache_clear()
        for name in [name for name in sys.modules if name.startswith(f"kernels.{OP}")]:
            del sys.modules[name]


def test_the_toy_has_the_files_of_the_recipe() -> None:
    named = {Path(name).name for name in files_of("An op") if name.startswith("kernels/OP/")}
    optional = {"tuning.py"}  # it leaves no constant open
    assert {path.name for path in TOY.iterdir() if path.is_file()} == (named - optional) | {"__init__.py"}


def test_on_a_cpu(op: str, tmp_path: Path) -> None:
    assert op in registry.ops()
    isa = best_isa(host())
    units = lambda root: [lay_out_program(root, isa), lay_out_op(root, op, {})]  # noqa: E731
    library = Library(link(units, tmp_path / "toy.so", isa, default_cache(), lambda: None))
    spec = registry.spec(op)
    for case in spec.cases:
        inputs = make(spec, case)
        outputs = copied(inputs)
        library.call(op, outputs)
        assert not violations(spec, inputs, outputs)


def test_on_a_gpu(op: str) -> None:
    assert op in registry.ops("gpu")
    spec = registry.spec(f"gpu_{op}").typed("f16")
    for case in spec.cases:
        assert not contract.violations(spec, case, Interpreter().run)
