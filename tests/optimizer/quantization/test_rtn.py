"""Round-to-nearest against formulas written again in plain numpy, and against what they must guarantee."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from artifacts.precision import Scheme
from optimizer.formats.matrix import NonFiniteWeightError, QuantizationError, QuantizedMatrix, WeightRangeError
from optimizer.quantization.rtn import round_to_nearest

F32 = NDArray[np.float32]
INT4_NAMES = [f"int4-g{group}-{kind}" for group in (32, 64, 128, 192) for kind in ("sym", "asym")]
NAMES = ["fp32", "bf16", "int8", *INT4_NAMES]


def weights(seed: int, rows: int = 24, columns: int = 384, spread: float = 0.05) -> F32:
    rng = np.random.default_rng(seed)
    channel = np.exp(rng.normal(0, 0.7, columns))
    return (rng.standard_t(4, (rows, columns)) * channel * spread).astype(np.float32)


def expected_int8(w: F32) -> tuple[NDArray[np.int8], F32]:
    codes, scales = np.zeros(w.shape, np.int8), np.zeros(len(w), np.float32)
    for n, row in enumerate(w):
        scales[n] = np.abs(row).max() / np.float32(127)
        if scales[n] > 0:
            codes[n] = np.rint(row / scales[n])
    return codes, scales


def expected_int4(w: F32, group: int, symmetric: bool) -> tuple[NDArray[np.uint8], NDArray[np.float16], NDArray[np.uint8]]:
    rows, columns = w.shape
    codes = np.zeros(w.shape, np.uint8)
    scales = np.zeros((rows, columns // group), np.float16)
    zeros = np.full(scales.shape, 8, np.uint8)
    for n in range(rows):
        for g in range(columns // group):
            x = w[n, g * group : (g + 1) * group]
            if symmetric:
                scales[n, g] = np.float16(x[np.argmax(np.abs(x))] / np.float32(-8))
            else:
                low, high = min(x.min(), np.float32(0)), max(x.max(), np.float32(0))
                scales[n, g] = np.float16((high - low) / np.float32(15))
                zeros[n, g] = np.clip(np.rint(-low / np.float32(scales[n, g])), 0, 15)
            q = np.rint(x / np.float32(scales[n, g])) + np.float32(zeros[n, g])
            codes[n, g * group : (g + 1) * group] = np.clip(q, 0, 15)
    return codes, scales, zeros


def quantize(w: F32, name: str) -> QuantizedMatrix:
    return round_to_nearest("layers.0.o", torch.from_numpy(w), Scheme.parse(name))


@pytest.mark.parametrize("seed", range(3))
def test_int8_bit_for_bit(seed: int) -> None:
    w = weights(seed)
    codes, scales = expected_int8(w)
    matrix = quantize(w, "int8")
    np.testing.assert_array_equal(matrix.codes, codes)
    np.testing.assert_array_equal(matrix.scales, scales)
    np.testing.assert_array_equal(matrix.dequantize(), codes.astype(np.float32) * scales[:, None])
    assert (matrix.codes.dtype, matrix.scales.dtype, matrix.zeros) == (np.int8, np.float32, None)


def test_int3_bit_for_bit() -> None:
    """The largest magnitude of each group is -4."""
    w = weights(7)
    matrix = quantize(w, "int3")
    grouped = w.reshape(len(w), -1, 32)
    widest = np.take_along_axis(grouped, np.abs(grouped).argmax(axis=2)[:, :, None], axis=2)
    scales = (widest / np.float32(-4)).astype(np.float16)
    codes = np.clip(np.rint(grouped / scales.astype(np.float32)) + 4, 0, 7).reshape(w.shape)
    np.testing.assert_array_equal(matrix.codes, codes.astype(np.uint8))
    np.testing.assert_array_equal(matrix.scales, scales[:, :, 0])
    values = (codes.reshape(grouped.shape) - 4) * scales.astype(np.float64)
    np.testing.assert_array_equal(matrix.dequantize(), values.reshape(w.shape))


@pytest.mark.parametrize("name", INT4_NAMES)
def test_int4_bit_for_bit(name: str) -> None:
    w, scheme = weights(7), Scheme.parse(name)
    codes, scales, zeros = expected_int4(w, scheme.group_size, scheme.symmetric)
    matrix = quantize(w, name)
    np.testing.assert_array_equal(matrix.codes, codes)
    np.testing.assert_array_equal(matrix.scales, scales)
    if scheme.symmetric:
        assert matrix.zeros is None
    else:
        np.testing.assert_array_equal(matrix.zeros, zeros)
    per_element = np.repeat(scales.astype(np.float64), scheme.group_size, axis=1)
    value = per_element * (codes.astype(np.float64) - np.repeat(zeros.astype(np.float64), scheme.group_size, axis=1))
    np.testing.assert_array_equal(matrix.dequantize().astype(np.float64), value)


def test_bf16_rounds_to_nearest_even() -> None:
    w = np.concatenate([weights(3).ravel(), np.float32([1 + 2**-8, 1 + 3 * 2**-8, -(1 + 2**-8), 1e-40, -0.0])])[None]
    bits = w.view(np.uint32).astype(np.uint64)
    expected = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    np.testing.assert_array_equal(quantize(w, "bf16").codes, expected)


def test_fp32_is_kept() -> None:
    w = weights(4)
    np.testing.assert_array_equal(quantize(w, "fp32").dequantize(), w)


def test_ties_go_to_even() -> None:
    w = np.zeros((1, 32), np.float32)
    w[0, :6] = [127, 0.5, 1.5, 2.5, -0.5, -1.5]
    assert quantize(w, "int8").codes[0, 1:6].tolist() == [0, 2, 2, 0, -2]
    w[0, 0] = -8
    assert quantize(w, "int4-g32-sym").codes[0, 1:6].tolist() == [8, 10, 10, 8, 6]


@pytest.mark.parametrize("name", ["int8", "int4-g32-sym", "int4-g64-sym", "int4-g128-sym"])
def test_symmetric_values_quantize_to_themselves(name: str) -> None:
    once = quantize(weights(5), name).dequantize()
    np.testing.assert_allclose(quantize(once, name).dequantize(), once, rtol=2e-7)


def test_asymmetric_groups_that_reach_both_ends_quantize_to_themselves() -> None:
    rng = np.random.default_rng(6)
    codes = rng.integers(0, 16, (16, 128))
    codes[:, ::32], codes[:, 1::32] = 0, 15
    scales = rng.uniform(1e-3, 1e-1, (16, 4)).astype(np.float16).astype(np.float32)
    zeros = rng.integers(0, 16, (16, 4))
    w = ((codes - np.repeat(zeros, 32, axis=1)) * np.repeat(scales, 32, axis=1)).astype(np.float32)
    np.testing.assert_array_equal(quantize(w, "int4-g32-asym").dequantize(), w)


def test_symmetric_int4_agrees_with_q4_0() -> None:
    """llama.cpp's Q4_0 has the same scales; its codes are computed against the scale before fp16."""
    w = weights(12, rows=64)
    blocks = gguf.quants.quantize(w, gguf.GGMLQuantizationType.Q4_0)
    scales = blocks.reshape(-1, 18)[:, :2].copy().view(np.float16).reshape(64, -1)
    matrix = quantize(w, "int4-g32-sym")
    np.testing.assert_array_equal(matrix.scales, scales)
    theirs = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType.Q4_0)
    assert np.mean(matrix.dequantize() != theirs) < 0.01
    assert np.linalg.norm(w - matrix.dequantize()) < 1.001 * np.linalg.norm(w - theirs)


@pytest.mark.parametrize("name", ["int8", *INT4_NAMES])
def test_activations_do_not_change_weights(name: str) -> None:
    w = weights(8)
    plain, dynamic = quantize(w, name), quantize(w, name + "-a8")
    np.testing.assert_array_equal(plain.codes, dynamic.codes)
    np.testing.assert_array_equal(plain.scales, dynamic.scales)
    assert dynamic.scheme.int8_activations and not plain.scheme.int8_activations


@pytest.mark.parametrize("name", [*NAMES, "fp8", "fp8-block", "fp8-tensor", "mxfp4", "nvfp4", "int4-twolevel", "int3"])
def test_large_matrices_are_rounded_slab_by_slab_alike(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slabs are of 128 rows and more; a scale of the tensor is that of all of them."""
    w = weights(9, rows=300)
    w[280] *= 50
    whole = quantize(w, name)
    monkeypatch.setattr("optimizer.quantization.rtn._SLAB_ELEMENTS", 5 * 256)
    slabs = quantize(w, name)
    np.testing.assert_array_equal(whole.codes, slabs.codes)
    np.testing.assert_array_equal(whole.dequantize(), slabs.dequantize())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_non_finite_weight_names_the_tensor(name: str, bad: float) -> None:
    w = weights(10)
    w[3, 200] = bad
    with pytest.raises(NonFiniteWeightError, match=r"layers\.0\.o.*got 1 NaN"):
        quantize(w, name)


@pytest.mark.parametrize(("name", "value"), [("int4-g32-sym", 1e7), ("int4-g32-asym", 1e7), ("bf16", 3.4e38)])
def test_what_overflows_is_refused(name: str, value: float) -> None:
    with pytest.raises(WeightRangeError, match=r"layers\.0\.o"):
        quantize(np.full((1, 32), value, np.float32), name)


def test_a_shape_that_refuses_is_named() -> None:
    with pytest.raises(QuantizationError, match=r"layers\.0\.o cannot take int4-g64-sym: in_features 96"):
        quantize(np.zeros((4, 96), np.float32), "int4-g64-sym")
    with pytest.raises(QuantizationError, match=r"fp32 \[N, K\]"):
        round_to_nearest("embed", torch.zeros(4, 32, dtype=torch.float16), Scheme.parse("int8"))


@pytest.mark.parametrize("name", ["int8", "int4-g32-sym", "int4-g32-asym"])
@pytest.mark.parametrize("magnitude", [0.0, 1e-45, 1e-38, 1e-20, 1e-8])
def test_values_below_the_smallest_scale_stay_near_zero(name: str, magnitude: float) -> None:
    w = np.full((2, 32), magnitude, np.float32)
    w[1] *= -1
    error = np.abs(quantize(w, name).dequantize() - w)
    assert error.max() <= max(magnitude, 0.0)
    assert np.isfinite(quantize(w, name).scales).all()


def test_error_statistics() -> None:
    w = weights(11)
    matrix = quantize(w, "int4-g32-asym")
    difference = w.astype(np.float64) - matrix.dequantize()
    error = matrix.error(torch.from_numpy(w))
    assert error.max_abs == pytest.approx(np.abs(difference).max())
    assert error.rms == pytest.approx(np.sqrt(np.mean(difference**2)))
    assert error.relative_rms == pytest.approx(np.linalg.norm(difference) / np.linalg.norm(w.astype(np.float64)))
    assert quantize(np.zeros((2, 32), np.float32), "int8").error(torch.zeros(2, 32)).relative_rms == 0


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    name=st.sampled_from(["int8", *INT4_NAMES]),
    spread=st.sampled_from([1e-3, 0.02, 1.0, 300.0]),
    shift=st.sampled_from([-3.0, 0.0, 0.5]),
)
def test_properties(seed: int, name: str, spread: float, shift: float) -> None:
    """Half a step of error inside the range; zeros, orders of magnitude and the largest element survive."""
    rng = np.random.default_rng(seed)
    w = ((rng.standard_normal((3, 384)) + shift) * spread).astype(np.float32)
    w[rng.random(w.shape) < 0.1] = 0
    matrix, scheme = quantize(w, name), Scheme.parse(name)
    value = matrix.dequantize()
    group = scheme.group_size or 384
    step = np.repeat(np.abs(matrix.scales.astype(np.float64)).reshape(3, -1), group, axis=1)
    error = np.abs(w.astype(np.float64) - value)

    assert (value[w == 0] == 0).all()
    # fp16 rounding of the scale may leave the largest element outside by 8 or 15 half units in its last place.
    outside = 15 * 2.0**-11 + 1e-5
    inside = np.ones_like(w, bool)
    if scheme.weights == "int4" and scheme.symmetric:
        inside = np.sign(w) * np.sign(np.repeat(matrix.scales.astype(np.float64), group, axis=1)) <= 0
    assert (error[inside] <= step[inside] * (0.5 + outside)).all()
    assert (error <= step * (1 + outside)).all()
    assert (np.sign(value) * np.sign(w) >= 0).all()
