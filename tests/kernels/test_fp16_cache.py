"""Numbers that an fp16 KV cache holds, on every instruction set: numpy's, but for what lies beyond the largest."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import numpy as np
import pytest

from kernels import registry
from kernels.cpu.build import build, find_compiler
from kernels.cpu.host import host
from kernels.cpu.isa import ISAS, Isa, best_isa
from kernels.cpu.library import Library
from kernels.spec import Array
from tests.kernels.accuracy import copied, make, violations

HERE = [one for one in ISAS if not one.missing(host())]
CONVERSIONS = """
#include "vec.h"
extern "C" void to_halves(const float* x, uint16_t* out, int64_t n) {
    for (int64_t i = 0; i < n; ++i) out[i] = cf::to_f16(x[i]).bits;
}
extern "C" void to_floats(const uint16_t* x, float* out, int64_t n) {
    for (int64_t i = 0; i < n; i += cf::LANES) cf::store(out + i, cf::load((const cf::f16*)x + i));
}
"""


@pytest.fixture(scope="module", params=HERE, ids=lambda one: one.name)
def conversions(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    one: Isa = request.param
    made = tmp_path_factory.mktemp("conversions") / "conversions.so"
    flags = ["-std=c++17", "-O2", "-shared", "-fPIC", "-I", registry.ROOT / "cpu", *one.compiler_flags]
    subprocess.run([find_compiler().command, *flags, "-x", "c++", "-", "-o", made], input=CONVERSIONS, text=True, check=True)
    return ctypes.CDLL(str(made))


def to_halves(library: ctypes.CDLL, x: Array) -> Array:
    out = np.zeros(x.size, np.uint16)
    library.to_halves(ctypes.c_void_p(x.ctypes.data), ctypes.c_void_p(out.ctypes.data), ctypes.c_int64(x.size))
    return out.view(np.float16)


def test_every_half_and_what_lies_between_is_rounded_as_numpy_does(conversions: ctypes.CDLL) -> None:
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    between = (halves[:-1] + halves[1:]) / 2
    off = [np.nextafter(between, np.float32(0)), np.nextafter(between, np.float32(np.inf))]
    chosen = np.concatenate([halves, between, *off])
    chosen = np.concatenate([chosen, -chosen])
    expected = chosen.astype(np.float16)
    np.testing.assert_array_equal(to_halves(conversions, chosen).view(np.uint16), expected.view(np.uint16))


def test_what_is_beyond_the_largest_half_becomes_it_and_a_nan_stays_one(conversions: ctypes.CDLL) -> None:
    values = np.array([65504, 65519, 65520, 1e6, -7e4, 3e38, np.inf, -np.inf], np.float32)
    np.testing.assert_array_equal(to_halves(conversions, values), np.clip(values, -65504, 65504))
    assert np.isnan(to_halves(conversions, np.array([np.nan, -np.nan], np.float32))).all()


def test_every_half_is_read_as_numpy_reads_it(conversions: ctypes.CDLL) -> None:
    halves = np.arange(1 << 16, dtype=np.uint16)
    floats = np.zeros(halves.size, np.float32)
    conversions.to_floats(ctypes.c_void_p(halves.ctypes.data), ctypes.c_void_p(floats.ctypes.data), ctypes.c_int64(halves.size))
    np.testing.assert_array_equal(floats, halves.view(np.float16).astype(np.float32))


@pytest.mark.slow  # compiles all kernels for each instruction set; the best one is in the contract suite
@pytest.mark.parametrize("lesser", [one for one in HERE if one != best_isa(host())], ids=lambda one: one.name)
def test_kernels_agree_with_their_references_on_lesser_instruction_sets(
    tmp_path: Path, object_cache: Path, lesser: Isa
) -> None:
    library = Library(build({}, tmp_path / "kernels.so", lesser, object_cache))
    for symbol in ("rope_and_cache_fp16", "paged_attention_fp16"):
        spec = registry.spec(symbol)
        for case in spec.cases:
            inputs = make(spec, case)
            outputs = copied(inputs)
            library.call(symbol, outputs)
            assert not violations(spec, inputs, outputs), f"{symbol}: {case.name}"
