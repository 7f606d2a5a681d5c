"""Builds: the same bytes anywhere, other instruction sets, refusals."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernels import registry
from kernels.cpu.build import NoCompiler, build, find_compiler, resolve_constants
from kernels.cpu.host import Host, host, parse_cpuinfo
from kernels.cpu.isa import ISAS, best_isa, isa
from kernels.cpu.library import Library, LibraryRefused
from tests.kernels.accuracy import copied, make, violations


@pytest.mark.slow  # compiles all kernels for each instruction set; the best one is in the contract suite
@pytest.mark.parametrize("name", [one.name for one in ISAS])
def test_instruction_set_gives_right_results(name: str, tmp_path: Path, object_cache: Path) -> None:
    path = build({}, tmp_path / "kernels.so", isa(name), object_cache)
    if missing := isa(name).missing(host()):
        pytest.skip(f"compiled, but this machine lacks {', '.join(missing)}")
    built = Library(path)
    assert built.cpu_flags == isa(name).cpu_flags
    for spec in registry.specs().values():
        for case in spec.cases:
            inputs = make(spec, case)
            outputs = copied(inputs)
            built.call(spec.symbol, outputs, num_threads=2)
            assert not violations(spec, inputs, outputs), (spec.symbol, case.name)


@pytest.mark.slow
def test_two_builds_are_identical_and_a_changed_constant_compiles_its_op_alone(tmp_path: Path, object_cache: Path) -> None:
    own = tmp_path / "another cache"
    one = build({}, tmp_path / "one" / "a.so", isa("portable"), own)
    two = build({}, tmp_path / "elsewhere" / "b.so", isa("portable"), object_cache)
    assert one.read_bytes() == two.read_bytes()
    assert str(tmp_path).encode() not in one.read_bytes()
    before = set(own.iterdir())
    build({"PAGED_ATTENTION_QUERIES": 8}, tmp_path / "kernels.so", isa("portable"), own)
    assert len(set(own.iterdir()) - before) == 1


def test_constants_are_checked() -> None:
    best = isa("x86-64-v4")
    assert resolve_constants({"QUANT_MATMUL_ROWS": 4}, best)["QUANT_MATMUL_ROWS"] == 4
    with pytest.raises(ValueError, match=r"no op has the constant QUANT_MATMUL_ROW;"):
        resolve_constants({"QUANT_MATMUL_ROW": 4}, best)
    with pytest.raises(ValueError, match=r"QUANT_MATMUL_ROWS must be one of .* got 5"):
        resolve_constants({"QUANT_MATMUL_ROWS": 5}, best)
    with pytest.raises(ValueError, match="not legal on x86-64-v3"):
        resolve_constants({"QUANT_MATMUL_ROWS": 8, "QUANT_MATMUL_VECTORS": 4}, isa("x86-64-v3"))


def test_constants_of_matrix_tiles_are_for_those_who_have_them() -> None:
    few = {"QUANT_MATMUL_TILED_ROWS": 8}
    assert resolve_constants(few, isa("x86-64-v4-amx"))["QUANT_MATMUL_TILED_ROWS"] == 8
    with pytest.raises(ValueError, match="x86-64-v4-vnni has no matrix tiles"):
        resolve_constants(few, isa("x86-64-v4-vnni"))


@pytest.mark.parametrize("permitted", [True, False])
def test_tiles_that_the_system_keeps_are_not_there(permitted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = frozenset({"avx2", "amx_tile", "amx_int8"})
    monkeypatch.setattr("kernels.cpu.host.parse_cpuinfo", lambda text: ("Some CPU", flags, ""))
    monkeypatch.setattr("kernels.cpu.host._tiles_are_permitted", lambda: permitted)
    assert host.__wrapped__().flags == (flags if permitted else {"avx2"})


def test_defaults_are_legal_candidates() -> None:
    for tuning in registry.tunings().values():
        for level in ISAS:
            assert dict(tuning.default(level)) in tuning.candidates(level)


def test_no_compiler_says_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(NoCompiler, match=r"install one .*CXX"):
        find_compiler()


def test_library_is_refused_by_what_it_needs(tmp_path: Path, object_cache: Path) -> None:
    level = best_isa(host())
    if not level.cpu_flags:
        pytest.skip("portable code needs nothing")
    path = build({}, tmp_path / "kernels.so", level, object_cache)
    with pytest.raises(LibraryRefused, match=f"lacks: .*{level.cpu_flags[-1]}"):
        Library(path, Host("old", "x86_64", frozenset(), 1))
    (tmp_path / "not.so").write_bytes(b"no library")
    with pytest.raises(LibraryRefused, match="not a kernel library"):
        Library(tmp_path / "not.so")


def test_cpuinfo_is_parsed() -> None:
    first = "processor\t: 0\nmodel name\t: Some CPU @ 3 GHz\nmicrocode\t: 0x2b\nflags\t\t: fpu avx2 fma\n"
    text = f"{first}\nprocessor\t: 1\nflags\t: none\n"
    assert parse_cpuinfo(text) == ("Some CPU @ 3 GHz", frozenset({"fpu", "avx2", "fma"}), "0x2b")
