"""g++ and clang++ make the same bits of the kernels: the source says what is fused, not the compiler (decision 0039)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest

from kernels import registry
from kernels.cpu.build import NoCompiler, build, find_compiler
from kernels.cpu.host import host
from kernels.cpu.isa import ISAS, Isa, best_isa
from kernels.cpu.library import Library
from kernels.spec import Array, Case, OpSpec
from tests.kernels.accuracy import make
from tests.kernels.emulated import TILED_OPS, build_emulated

BEST = best_isa(host())
LESSER = [isa for isa in ISAS if isa is not BEST and not isa.missing(host())]


def built_by(command: str, build_into: Callable[[Path], Path], folder: Path, monkeypatch: pytest.MonkeyPatch) -> Library:
    monkeypatch.setenv("CXX", command)
    try:
        version = find_compiler().version
    except NoCompiler:
        pytest.skip(f"this machine has no {command}")
    if command == "g++" and "clang" in version:
        pytest.skip("g++ is another name of clang++ here")
    return Library(build_into(folder / f"{command}.so"))


def written(library: Library, spec: OpSpec, case: Case) -> dict[str, Array]:
    """What an entry point leaves in the tensors that it writes."""
    arguments = make(spec, case)
    library.call(spec.symbol, arguments, num_threads=2)
    return {t.name: np.asarray(arguments[t.name]) for t in spec.tensors if t.is_output and arguments[t.name] is not None}


def assert_same_bits(
    build_into: Callable[[Path], Path], ops: Iterable[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gcc, clang = (built_by(command, build_into, folder, monkeypatch) for command in ("g++", "clang++"))
    for spec in (spec for spec in registry.specs().values() if spec.op in ops):
        for case in spec.cases:
            of_gcc, of_clang = written(gcc, spec, case), written(clang, spec, case)
            differing = [name for name, array in of_gcc.items() if array.tobytes() != of_clang[name].tobytes()]
            assert not differing, (spec.symbol, case.name)


@pytest.mark.slow
@pytest.mark.parametrize("isa", (BEST, *LESSER), ids=lambda isa: isa.name)
def test_clang_makes_the_bits_that_gcc_makes(isa: Isa, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_same_bits(lambda path: build({}, path, isa), registry.ops(), tmp_path, monkeypatch)


@pytest.mark.slow
def test_clang_makes_the_bits_of_emulated_tiles_that_gcc_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_same_bits(lambda path: build_emulated(path, BEST), TILED_OPS, tmp_path, monkeypatch)
