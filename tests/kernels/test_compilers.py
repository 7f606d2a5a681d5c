"""g++ and clang++ make the same bits of the kernels: the source says what is fused, not the compiler (decision 0039)."""

from __future__ import annotations

from dataclasses import replace
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

BEST = best_isa(host())
EMULATED_TILES = replace(
    BEST, name=f"{BEST.name} with emulated tiles", compiler_flags=(*BEST.compiler_flags, "-DCF_EMULATED_TILES")
)
LESSER = [isa for isa in ISAS if isa is not BEST and not isa.missing(host())]


def built_by(command: str, isa: Isa, path: Path, monkeypatch: pytest.MonkeyPatch) -> Library:
    monkeypatch.setenv("CXX", command)
    try:
        version = find_compiler().version
    except NoCompiler:
        pytest.skip(f"this machine has no {command}")
    if command == "g++" and "clang" in version:
        pytest.skip("g++ is another name of clang++ here")
    return Library(build({}, path / f"{command}.so", isa))


def written(library: Library, spec: OpSpec, case: Case) -> dict[str, Array]:
    """What an entry point leaves in the tensors that it writes."""
    arguments = make(spec, case)
    library.call(spec.symbol, arguments, num_threads=2)
    return {t.name: np.asarray(arguments[t.name]) for t in spec.tensors if t.is_output and arguments[t.name] is not None}


@pytest.mark.slow
@pytest.mark.parametrize("isa", (BEST, EMULATED_TILES, *LESSER), ids=lambda isa: isa.name)
def test_clang_makes_the_bits_that_gcc_makes(isa: Isa, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gcc, clang = (built_by(command, isa, tmp_path, monkeypatch) for command in ("g++", "clang++"))
    for spec in registry.specs().values():
        for case in spec.cases:
            of_gcc, of_clang = written(gcc, spec, case), written(clang, spec, case)
            differing = [name for name, array in of_gcc.items() if array.tobytes() != of_clang[name].tobytes()]
            assert not differing, (spec.symbol, case.name)
