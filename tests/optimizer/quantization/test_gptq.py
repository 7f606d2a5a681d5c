"""GPTQ against the paper's formulas, column by column in fp64, and against what it must guarantee."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from artifacts.precision import Scheme
from optimizer.formats.matrix import NonFiniteWeightError, QuantizationError, QuantizedMatrix
from optimizer.quantization.gptq import gptq, inverse_factor
from optimizer.quantization.grid import Grid, fit_grid
from optimizer.quantization.input_statistics import InputStatistics
from optimizer.quantization.rtn import round_to_nearest

F64 = NDArray[np.float64]
NAMES = [
    "int8",
    *(f"int4-g{group}-{kind}" for group in (32, 64, 128) for kind in ("sym", "asym")),
    "fp8",
    "fp8-block",
    "fp8-tensor",
    "mxfp4",
    "nvfp4",
    "int4-twolevel",
    "int3",
]


def problem(seed: int, rows: int, columns: int, num_inputs: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights, and the Hessian of correlated inputs whose channels differ in size."""
    rng = np.random.default_rng(seed)
    weight = rng.standard_t(5, (rows, columns)) * 0.05
    mixing = rng.normal(size=(columns, columns)) / columns**0.5 + np.eye(columns) * 0.3
    inputs = rng.normal(size=(num_inputs or 2 * columns, columns)) @ mixing * np.exp(rng.normal(0, 0.7, columns))
    hessian = inputs.T @ inputs / len(inputs)
    return torch.from_numpy(weight.astype(np.float32)), torch.from_numpy(hessian.astype(np.float32))


def loss(matrix: QuantizedMatrix, weight: torch.Tensor, hessian: torch.Tensor) -> float:
    nothing = torch.empty(0)
    return InputStatistics(hessian, nothing, nothing, nothing).loss(torch.from_numpy(matrix.dequantize()) - weight)


def brain_surgeon(weight: F64, hessian: F64, order: list[int], grid: Grid, damping: float) -> F64:
    """Equations 2 and 3 of the paper, one column after the other: the inverse of what remains is eliminated explicitly."""
    weight = weight.copy()
    result = np.zeros_like(weight)
    inverse = np.linalg.inv(hessian + damping * np.diag(hessian).mean() * np.eye(len(hessian)))
    for j in order:
        column = torch.from_numpy(weight[:, j : j + 1].astype(np.float32))
        place = torch.tensor([j])
        result[:, j] = grid.values(grid.codes(column, place), place)[:, 0].double().numpy()
        weight -= np.outer((weight[:, j] - result[:, j]) / inverse[j, j], inverse[j])
        inverse -= np.outer(inverse[:, j], inverse[j]) / inverse[j, j]
        # What is rounded stays: the elimination leaves zeros there, up to rounding.
        inverse[j], inverse[:, j] = 0, 0
        inverse[j, j] = 1
    return result


@pytest.mark.parametrize("activation_order", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_agrees_with_the_formulas(name: str, activation_order: bool) -> None:
    """Columns beyond one block, so that lazy updates count. A weight amid two codes may fall to either: almost all agree."""
    scheme = Scheme.parse(name)
    weight, hessian = problem(1, 8, 256)
    diagonal = np.diag(hessian.numpy())
    order = sorted(range(256), key=lambda j: -diagonal[j]) if activation_order else list(range(256))
    expected = brain_surgeon(weight.double().numpy(), hessian.double().numpy(), order, fit_grid("w", weight, scheme), 0.01)
    matrix = gptq("w", weight, scheme, hessian, damping=0.01, activation_order=activation_order)
    value = matrix.dequantize()
    rows_alike = (value == expected.astype(np.float32)).all(axis=1).mean()
    assert rows_alike > 0.5
    ours, theirs = loss(matrix, weight, hessian), _loss64(expected, weight, hessian)
    assert ours == pytest.approx(theirs, rel=0.02)


def _loss64(value: F64, weight: torch.Tensor, hessian: torch.Tensor) -> float:
    difference = value - weight.double().numpy()
    return float(((difference @ hessian.double().numpy()) * difference).sum())


@pytest.mark.parametrize("name", NAMES)
def test_loses_less_than_rounding_to_nearest(name: str) -> None:
    weight, hessian = problem(2, 40, 128)
    scheme = Scheme.parse(name)
    nearest = loss(round_to_nearest("w", weight, scheme), weight, hessian)
    in_order, as_they_stand = (
        loss(gptq("w", weight, scheme, hessian, activation_order=order), weight, hessian) for order in (True, False)
    )
    assert in_order < 0.8 * nearest
    assert as_they_stand < 0.9 * nearest


@settings(max_examples=20)
@given(
    seed=st.integers(0, 2**31),
    rows=st.integers(1, 40),
    groups=st.integers(1, 5),
    name=st.sampled_from(["int8", "int4-g32-sym", "int4-g32-asym", "int4-g64-sym", "int3", "fp8", "mxfp4"]),
    num_inputs=st.sampled_from([1, 8, 400]),
    activation_order=st.booleans(),
)
def test_any_shape(seed: int, rows: int, groups: int, name: str, num_inputs: int, activation_order: bool) -> None:
    """Scales are the plain method's, codes in their range, and the inputs see no larger error, however few there were."""
    scheme = Scheme.parse(name)
    weight, hessian = problem(seed, rows, groups * (scheme.group_size or 24), num_inputs)
    matrix = gptq("w", weight, scheme, hessian, activation_order=activation_order)
    nearest = round_to_nearest("w", weight, scheme)
    assert matrix.shape == tuple(weight.shape) and matrix.codes.dtype == nearest.codes.dtype
    np.testing.assert_array_equal(matrix.scales, nearest.scales)
    if scheme.weights.startswith("int"):
        low, high = {"int8": (-127, 127), "int3": (0, 7)}.get(name, (0, 15))
        assert matrix.codes.min() >= low and matrix.codes.max() <= high
    assert np.isfinite(matrix.dequantize()).all()
    assert loss(matrix, weight, hessian) <= 1.0 * loss(nearest, weight, hessian)


def test_uncorrelated_inputs_leave_nothing_to_make_up_for() -> None:
    weight, _ = problem(3, 16, 128)
    scheme = Scheme.parse("int4-g32-sym")
    matrix = gptq("w", weight, scheme, torch.diag(torch.rand(128) + 0.1))
    np.testing.assert_array_equal(matrix.codes, round_to_nearest("w", weight, scheme).codes)


@pytest.mark.parametrize("rank", [0, 1, 3])
def test_singular_hessians_are_damped(rank: int) -> None:
    weight, _ = problem(4, 16, 128)
    inputs = torch.randn(rank, 128, generator=torch.Generator().manual_seed(0))
    inputs[:, 40:50] = 0  # channels that calibration never saw
    scheme = Scheme.parse("int4-g64-asym")
    matrix = gptq("w", weight, scheme, inputs.T @ inputs)
    nearest = round_to_nearest("w", weight, scheme)
    assert loss(matrix, weight, inputs.T @ inputs) <= loss(nearest, weight, inputs.T @ inputs)
    np.testing.assert_array_equal(matrix.codes[:, 40:50], nearest.codes[:, 40:50])


def test_a_hessian_that_rounding_made_indefinite_is_damped_more() -> None:
    hessian = torch.eye(32) - 0.1 * torch.ones(32, 32)
    order = torch.arange(32)
    factor = inverse_factor(hessian, order, damping=0.01)
    assert factor is not None and torch.isfinite(factor).all()
    with pytest.raises(ValueError, match="symmetric and finite"):
        inverse_factor(torch.full((4, 4), torch.nan), order[:4])


def test_the_factor_is_that_of_the_inverse() -> None:
    _, hessian = problem(5, 1, 96)
    order = torch.randperm(96)
    factor = inverse_factor(hessian, order, damping=0.05)
    assert factor is not None
    assert torch.equal(factor, factor.triu())
    damped = hessian[order][:, order].double() + 0.05 * hessian.diagonal().mean().double() * torch.eye(96)
    torch.testing.assert_close(factor.T.double() @ factor.double() @ damped, torch.eye(96).double(), rtol=0, atol=1e-3)


def test_slabs_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, hessian = problem(6, 300, 64)
    scheme = Scheme.parse("int4-g32-sym")
    whole = gptq("w", weight, scheme, hessian)
    monkeypatch.setattr("optimizer.quantization.gptq._SLAB_ELEMENTS", 1)
    np.testing.assert_array_equal(gptq("w", weight, scheme, hessian).codes, whole.codes)


def test_what_round_to_nearest_refuses_is_refused() -> None:
    weight, hessian = problem(7, 8, 96)
    with pytest.raises(QuantizationError, match=r"layers\.0\.o cannot take int4-g64-sym"):
        gptq("layers.0.o", weight, Scheme.parse("int4-g64-sym"), hessian)
    weight[3, 4] = torch.nan
    with pytest.raises(NonFiniteWeightError, match=r"layers\.0\.o"):
        gptq("layers.0.o", weight, Scheme.parse("int8"), hessian)
