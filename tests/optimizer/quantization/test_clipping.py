"""Clipped ranges against a search written out scale by scale, and what they win."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from artifacts.precision import Scheme
from kernels.scaled_matmul.packing import encode_mxfp4
from optimizer.formats.codec import SHRINK_FACTORS
from optimizer.quantization.clipping import fit_clipped_grid
from optimizer.quantization.grid import fit_grid
from optimizer.quantization.rtn import round_to_nearest

NAMES = ["int8", "int4-g32-sym", "int4-g64-asym", "fp8", "fp8-block", "fp8-tensor", "mxfp4", "nvfp4", "int4-twolevel", "int3"]


def weights(seed: int, rows: int = 150, columns: int = 192) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_t(4, (rows, columns)).astype(np.float32) * 0.05)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", ["int4-g32-sym", "int4-g64-asym", "int8", "int3"])
def test_every_scale_is_the_best_of_those_tried(name: str, weighted: bool) -> None:
    weight, scheme = weights(0, rows=6), Scheme.parse(name)
    importance = torch.from_numpy(np.random.default_rng(1).exponential(size=192).astype(np.float32)) if weighted else None
    weighing = np.ones(192) if importance is None else importance.double().numpy()
    width = scheme.group_size or 192
    clipped = round_to_nearest("w", weight, scheme, lambda *given: fit_clipped_grid(*given, importance=importance)).dequantize()
    for row in range(6):
        for start in range(0, 192, width):
            columns = slice(start, start + width)
            alone = weight[row : row + 1, columns]
            candidates = [
                round_to_nearest("w", alone, scheme, lambda *given, s=shrink: fit_grid(*given, shrink=s)).dequantize()
                for shrink in SHRINK_FACTORS
            ]
            errors = [((c - alone.numpy()).astype(np.float64) ** 2 @ weighing[columns]).item() for c in candidates]
            ours = (clipped[row, columns] - alone.numpy()[0]).astype(np.float64) ** 2 @ weighing[columns]
            assert ours == pytest.approx(min(errors), rel=1e-4)


def test_every_step_is_the_best_of_all_fifteen() -> None:
    """Within what the factors tried reach: steps of 0.4 to 1.4 times the range's."""
    weight, scheme = weights(5, rows=6), Scheme.parse("int4-twolevel")
    importance = torch.from_numpy(np.random.default_rng(1).exponential(size=192).astype(np.float32))
    plain = round_to_nearest("w", weight, scheme)
    clipped = round_to_nearest("w", weight, scheme, lambda *given: fit_clipped_grid(*given, importance=importance))
    assert clipped.scales is not None
    for row in range(6):
        units = weight[row].double().numpy() / float(clipped.scales[row])
        for group in range(192 // 16):
            columns = slice(16 * group, 16 * group + 16)
            x, weighing = units[columns], importance[columns].double().numpy()
            errors = {s: float((np.clip(np.rint(x / s), -8, 7) * s - x) ** 2 @ weighing) for s in range(1, 16)}
            widest = np.abs(x).max() / 7.5
            reached = [s for s in errors if 0.45 * widest <= s <= 1.35 * widest or s == plain.parts["steps"][row, group]]
            assert errors[int(clipped.parts["steps"][row, group])] <= min(errors[s] for s in reached) * (1 + 1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_no_scheme_loses_by_it(name: str) -> None:
    weight, scheme = weights(2), Scheme.parse(name)
    plain = round_to_nearest("w", weight, scheme).error(weight).rms
    clipped = round_to_nearest("w", weight, scheme, fit_clipped_grid).error(weight).rms
    assert clipped <= plain * (1 + 1e-6)
    if scheme.weights in ("int4", "int4-twolevel", "nvfp4"):
        assert clipped < 0.98 * plain


def test_mxfp4_is_the_specifications() -> None:
    weight = weights(3)
    matrix = round_to_nearest("w", weight, Scheme.parse("mxfp4"))
    codes, scales = encode_mxfp4(weight.numpy())
    np.testing.assert_array_equal(matrix.codes, codes)
    np.testing.assert_array_equal(matrix.scales, scales)


@pytest.mark.parametrize("name", NAMES)
def test_a_grids_values_are_the_matrix(name: str) -> None:
    weight = weights(4)
    grid = fit_grid("w", weight, Scheme.parse(name))
    columns = torch.arange(weight.shape[1])
    codes = grid.codes(weight, columns)
    np.testing.assert_array_equal(grid.values(codes, columns).numpy(), grid.matrix(codes).dequantize())
    some = torch.tensor([130, 3, 64])
    assert torch.equal(grid.codes(weight[:, some], some), codes[:, some])
