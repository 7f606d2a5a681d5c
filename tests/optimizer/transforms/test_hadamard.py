"""Hadamard matrices: orthogonal wherever they are constructed, refused elsewhere."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.transforms import NoHadamardMatrixError, hadamard
from optimizer.transforms.hadamard import hadamard_factors
from optimizer.transforms.rotation import OrthogonalMatrix

#: hidden sizes and head sizes of released llama, mistral, qwen2 and qwen3 models, but for OpenLLaMA 3B's heads of 100
HIDDEN_SIZES = (288, 512, 576, 768, 896, 960, 1024, 1536, 2048, 2560, 3072, 3584, 4096, 5120, 6656, 7168, 8192, 16384)
HEAD_SIZES = (48, 64, 80, 96, 112, 128, 160, 192, 256)


@pytest.mark.parametrize("order", [*HEAD_SIZES, *HIDDEN_SIZES])
def test_every_released_size_has_one(order: int) -> None:
    """Factors that are Hadamard have a Kronecker product that is."""
    product = 1
    for factor in hadamard_factors(order):
        assert set(factor.unique().tolist()) <= {-1, 1}
        exact = factor.double()
        assert torch.equal(exact @ exact.T, len(factor) * torch.eye(len(factor), dtype=torch.float64))
        product *= len(factor)
    assert product == order


@settings(max_examples=60)
@given(st.integers(-3, 700))
def test_a_matrix_is_orthogonal_or_refused(order: int) -> None:
    try:
        matrix = hadamard(order).double()
    except NoHadamardMatrixError as error:
        assert str(order) in str(error)
        assert order not in (1, 2) and (order < 1 or order & (order - 1))
        return
    assert matrix.shape == (order, order) and bool((matrix.abs() == 1).all())
    assert torch.equal(matrix @ matrix.T, order * torch.eye(order, dtype=torch.float64))


@pytest.mark.parametrize("order", [0, 3, 6, 18, 92, 100])
def test_what_is_not_constructed_is_refused(order: int) -> None:
    with pytest.raises(NoHadamardMatrixError, match=f"{order}"):
        hadamard(order)


@settings(max_examples=30)
@given(st.integers(1, 300), st.integers(0, 5))
def test_a_random_rotation_is_orthogonal_for_every_order(order: int, seed: int) -> None:
    """The factored product is the dense one's; where there is no Hadamard matrix, it says so."""
    rotation = OrthogonalMatrix.random(order, seed)
    dense = rotation.dense()
    torch.testing.assert_close(dense @ dense.T, torch.eye(order, dtype=torch.float64))
    rows = torch.randn(3, order, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(rotation.rotate(rows), (rows.double() @ dense).float())
    if rotation.kind == "hadamard":
        torch.testing.assert_close(dense.abs(), torch.full_like(dense, order**-0.5))
    else:
        with pytest.raises(NoHadamardMatrixError):
            hadamard(order)
