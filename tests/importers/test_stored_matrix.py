"""Stored codes in the schemes that hold them: whatever the granularity, the same values bit for bit, or a reason."""

from __future__ import annotations

from unittest.mock import patch

import ml_dtypes
import numpy as np
import pytest
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import from_numpy

from artifacts.precision import Scheme
from optimizer.formats.stored_matrix import StoredMatrix
from optimizer.formats.table import kept_in
from optimizer.importers import Misfit
from optimizer.importers.prequantized.awq import unpack_columns
from optimizer.importers.prequantized.words import Bits, unpack_words
from optimizer.quantization import QuantizedMatrix

SCHEMES = ("int4-g32-sym", "int4-g32-asym", "int4-g64-sym", "int4-g64-asym", "int4-g128-asym", "int8", "fp8", "fp8-block")


@st.composite
def stored_matrices(draw: st.DrawFn) -> StoredMatrix:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, k = draw(st.integers(1, 200)), 32 * draw(st.integers(1, 8))
    kind = draw(st.sampled_from(["uint4", "uint8", "e4m3"]))
    rows = draw(st.sampled_from([1, n, 64, 128, 256]))
    columns = draw(st.sampled_from([32, 64, 96, 128, 256, k]))
    codes = rng.integers(0, {"uint4": 16, "uint8": 256, "e4m3": 127}[kind], (n, k), np.uint8)
    shape = (-(-n // rows), -(-k // columns))
    dtype = draw(st.sampled_from([np.float16, np.float32]))
    scales = rng.uniform(1e-3, 1e-1, shape).astype(dtype).astype(np.float32)
    zeros = None
    if kind != "e4m3" and draw(st.booleans()):
        zeros = rng.integers(0, 16 if kind == "uint4" else 256, shape, np.uint8)
    groups = None
    if draw(st.integers(0, 9)) == 0:
        groups = rng.integers(0, shape[1], k)
    return StoredMatrix(kind, codes, scales, rows, columns, zeros, groups)  # type: ignore[arg-type]


def element(matrix: StoredMatrix, n: int, k: int, decoded: NDArray[np.float32]) -> np.float32:
    """W[n, k] by the definition, in fp32."""
    place = n // matrix.rows, k // matrix.columns if matrix.groups is None else matrix.groups[k]
    middle = {"uint4": 8, "uint8": 128, "e4m3": 0}[matrix.kind]
    zero = middle if matrix.zeros is None else int(matrix.zeros[place])
    return np.float32(matrix.scales[place] * np.float32(decoded[n, k] - zero))


@settings(max_examples=60)
@given(matrix=stored_matrices(), data=st.data())
def test_values_are_scale_times_code_less_zero(matrix: StoredMatrix, data: st.DataObject) -> None:
    decoded = matrix.codes.view(ml_dtypes.float8_e4m3fn) if matrix.kind == "e4m3" else matrix.codes
    with patch("optimizer.formats.stored_matrix._SLAB_ELEMENTS", data.draw(st.sampled_from([1, 1000, 1 << 18]))):
        values = matrix.dequantize()
    assert values.shape == matrix.codes.shape
    for _ in range(20):
        n, k = (data.draw(st.integers(0, extent - 1)) for extent in values.shape)
        assert values[n, k] == element(matrix, n, k, decoded.astype(np.float32))


@settings(max_examples=150)
@given(matrix=stored_matrices(), name=st.sampled_from(SCHEMES))
def test_a_scheme_that_holds_it_changes_no_value(matrix: StoredMatrix, name: str) -> None:
    scheme = Scheme.parse(name)
    found = kept_in(scheme, matrix)
    if isinstance(found, Misfit):
        assert found.reason
        return
    n, k = matrix.codes.shape
    values = matrix.dequantize()
    if found.rounding:  # scales in fp32, once
        assert scheme.weights == "int4" and found.rounding <= 2**-11
        change = float(np.linalg.norm(found.dequantize() - values) / np.linalg.norm(values))
        assert change == pytest.approx(found.rounding, rel=1e-2)
    else:
        np.testing.assert_array_equal(found.dequantize(), values)
    grid = {"int4": (n, k // (scheme.group_size or 1)), "int8": (n,), "fp8": (n,)}[scheme.weights]
    assert found.scales.shape == ((-(-n // 128), -(-k // 128)) if scheme.granularity == "block" else grid)
    assert found.codes.dtype == (np.int8 if name == "int8" else np.uint8)
    assert found.scales.dtype == (np.float16 if scheme.weights == "int4" else np.float32)


@pytest.mark.parametrize(("scale", "reason"), [(7e4, "a scale is beyond fp16"), (1e-7, "scales are too small for fp16")])
def test_scales_that_fp16_does_not_reach(scale: float, reason: str) -> None:
    codes = np.random.default_rng(0).integers(0, 16, (2, 64), np.uint8)
    scales = np.full((2, 2), scale, np.float32)
    assert kept_in(Scheme.parse("int4-g32-sym"), StoredMatrix("uint4", codes, scales, 1, 32)) == Misfit(reason)
    scales[0, 0] = 0.01 if scale < 1 else scale
    mixed = kept_in(Scheme.parse("int4-g32-sym"), StoredMatrix("uint4", codes, scales, 1, 32))
    assert isinstance(mixed, QuantizedMatrix) == (scale < 1)  # what a small group loses does not count beside the others


def test_what_is_stored_in_a_scheme_is_held_by_it() -> None:
    """No scheme is left out for want of trying: each one's own granularity fits."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 16, (256, 256), np.uint8)
    for name in SCHEMES:
        scheme = Scheme.parse(name)
        kind = {"int4": "uint4", "int8": "uint8", "fp8": "e4m3"}[scheme.weights]
        rows, columns = (128, 128) if scheme.granularity == "block" else (1, scheme.group_size or 256)
        shape = (256 // rows, 256 // columns)
        scales = rng.uniform(0.01, 0.1, shape).astype(np.float16).astype(np.float32)
        zeros = None if scheme.symmetric else rng.integers(0, 16, shape, np.uint8)
        found = kept_in(scheme, StoredMatrix(kind, codes, scales, rows, columns, zeros))  # type: ignore[arg-type]
        assert isinstance(found, QuantizedMatrix), name


@settings(max_examples=40)
@given(
    rows=st.integers(1, 9), words=st.integers(1, 9), bits=st.sampled_from([4, 8]), seed=st.integers(0, 2**32 - 1)
)  # fmt: skip
def test_words(rows: int, words: int, bits: Bits, seed: int) -> None:
    """Against compressed-tensors' packing, whose first code is in the lowest bits, and AWQ's order by its published loop."""
    codes = np.random.default_rng(seed).integers(0, 1 << bits, (rows, words * 32 // bits), np.uint8)
    signed = (codes.astype(np.int16) - (1 << bits - 1)).astype(np.int8)
    np.testing.assert_array_equal(unpack_words(pack_to_int32(from_numpy(signed), bits).numpy(), bits), codes)
    if bits == 4:
        packed = np.zeros((rows, words), np.uint32)
        for nibble, column in enumerate((0, 2, 4, 6, 1, 3, 5, 7)):
            packed |= codes[:, column::8].astype(np.uint32) << np.uint32(4 * nibble)
        np.testing.assert_array_equal(unpack_columns(packed.view(np.int32)), codes.T)


@pytest.mark.parametrize(
    ("code", "zero", "value"), [(0, 128, -128), (0, 129, None), (127, 0, 127), (128, 0, None), (255, 128, 127)]
)
def test_int8_holds_what_is_128_below_its_zero_point_and_127_above(code: int, zero: int, value: int | None) -> None:
    codes, zeros = np.full((1, 32), code, np.uint8), np.full((1, 1), zero, np.uint8)
    found = kept_in(Scheme.parse("int8"), StoredMatrix("uint8", codes, np.ones((1, 1), np.float32), 1, 32, zeros))
    if value is None:
        assert found == Misfit("codes minus their zero points do not fit into int8")
    else:
        assert isinstance(found, QuantizedMatrix) and (found.codes == value).all()
