"""Packed parts decoded again, element by element, from the layout table alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from artifacts.precision import Scheme
from optimizer.quantization import pack_matrix, round_to_nearest

NAMES = [
    "fp32",
    "bf16",
    "int3",
    "int8",
    "int8-a8",
    "int8-a16",
    "int4-twolevel",
    "int4-twolevel-a8",
    "mxfp4",
    "mxfp4-a8",
    *(f"int4-g{g}-{s}{a}" for g in (32, 64) for s in ("sym", "asym") for a in ("", "-a8")),
]


def value(parts: dict[str, np.ndarray], scheme: Scheme, n: int, k: int) -> float:
    """W[n, k] as the table of docs/architecture.md says where to find it."""
    tile, lane = divmod(n, 16)
    if scheme.weights == "fp32":
        return float(parts["weight"][tile, k, lane])
    if scheme.weights == "bf16":
        return float((parts["weight"][tile, k, lane].astype(np.uint32) << np.uint32(16)).view(np.float32))
    if scheme.name == "int8":
        return float(parts["scales"][tile, lane] * np.float32(parts["codes"][tile, k, lane]))
    if scheme.name in ("int8-a8", "int8-a16"):
        return float(parts["scales"][tile, lane] * np.float32(int(parts["codes"][tile, k // 4, lane, k % 4]) - 128))
    if scheme.weights == "int3":
        low = int(parts["codes"][tile, k // 16, lane]) >> 2 * (k % 16) & 3
        high = int(parts["high_bits"][tile, k // 32, lane]) >> k % 32 & 1
        return float(parts["scales"][tile, k // 32, lane]) * (4 * high + low - 4)
    word, place = int(parts["codes"][tile, k // 8, lane]), k % 8
    byte = word >> 8 * (place % 4) & 0xFF
    code = byte & 15 if place < 4 else byte >> 4
    group = k // scheme.group_size
    if scheme.weights == "mxfp4":
        number = (0, 0.5, 1, 1.5, 2, 3, 4, 6)[code & 7] * (-1 if code & 8 else 1)
        return number * 2.0 ** (int(parts["scales"][tile, group, lane]) - 127)
    if scheme.weights == "int4-twolevel":
        step = int(parts["steps"][tile, k // 32, lane]) >> 4 * (group % 2) & 15
        return float(parts["scales"][tile, lane] * np.float32(step * (code - 8)))
    zero = 8 if scheme.symmetric else int(parts["zeros"][tile, group, lane])
    return float(parts["scales"][tile, group, lane]) * (code - zero)


@pytest.mark.parametrize("name", NAMES)
def test_every_element_is_where_the_layout_says(name: str) -> None:
    scheme = Scheme.parse(name)
    weight = torch.randn(21, 128, generator=torch.Generator().manual_seed(0))
    matrix = round_to_nearest("w", weight, scheme)
    parts = pack_matrix(matrix)
    expected = {"fp32": {"weight"}, "bf16": {"weight"}, "int8": {"codes", "scales"}}
    expected["int3"] = {"codes", "high_bits", "scales"}
    expected["int4-twolevel"] = {"codes", "steps", "scales"}
    assert set(parts) == expected.get(scheme.weights, {"codes", "scales"} | (set() if scheme.symmetric else {"zeros"}))
    decoded = np.array([[value(parts, scheme, n, k) for k in range(128)] for n in range(21)])
    np.testing.assert_array_equal(decoded, matrix.dequantize())


@pytest.mark.parametrize("name", NAMES)
def test_stored_bits_are_what_the_scheme_says(name: str) -> None:
    scheme = Scheme.parse(name)
    parts = pack_matrix(round_to_nearest("w", torch.ones(32, 4096), scheme))
    assert 8 * sum(part.nbytes for part in parts.values()) / (32 * 4096) == pytest.approx(scheme.bits_per_weight, rel=2e-3)
