"""A library with variants of an op: each computes what a library of its own constants does, by pointers of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kernels import registry
from kernels.cpu.host import host
from kernels.cpu.isa import best_isa
from kernels.cpu.library import Library, _entry
from kernels.cpu.variants import Variants, build_variants
from kernels.spec import Call, Program
from tests.kernels.accuracy import copied, make

VARIANTS = [{}, {"QUANT_MATMUL_ROWS": 1, "QUANT_MATMUL_DECODE_VECTORS": 1}]
CHOICES = [{"quant_matmul": index} for index in range(len(VARIANTS))]
SYMBOLS = ["quant_matmul_int8", "quant_matmul_int8_a8"]


@pytest.fixture(scope="module")
def library(kernels_path: Path, tmp_path_factory: pytest.TempPathFactory, object_cache: Path) -> Library:
    """Ops without variants are compiled when `kernels_path` is there."""
    folder = tmp_path_factory.mktemp("variants")
    ops = {"quant_matmul": Variants(VARIANTS, SYMBOLS)}
    return Library(build_variants(ops, {}, folder / "kernels.so", best_isa(host()), object_cache))


@pytest.fixture(scope="module")
def alone(kernels_path: Path) -> Library:
    return Library(kernels_path)


@pytest.mark.parametrize("symbol", [*SYMBOLS, "silu_and_mul"])
def test_variants_share_buffers_and_compute_what_a_library_of_one_does(symbol: str, library: Library, alone: Library) -> None:
    spec = registry.spec(symbol)
    for case in spec.cases:
        inputs = make(spec, case)
        arguments, expected = copied(inputs), copied(inputs)
        alone.call(symbol, expected, num_threads=2)
        sizes = spec.sizes(arguments)
        counters = {axis: np.array([sizes[axis]], np.int64) for axis in spec.variable}
        program = Program((Call(symbol, arguments, {axis: axis for axis in spec.variable}),), counters)
        for each in library.compile_each(program, 2, CHOICES):
            out = arguments["out"]
            assert isinstance(out, np.ndarray)
            out[:] = 0
            each.run()
            assert np.array_equal(out, expected["out"]), case.name


def test_each_variant_has_entry_points_of_its_own(library: Library) -> None:
    assert len({_entry(library._library, SYMBOLS[0], choice) for choice in CHOICES}) == len(VARIANTS)
    assert len({_entry(library._library, "silu_and_mul", choice) for choice in CHOICES}) == 1, "of which there is one"
