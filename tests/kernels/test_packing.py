"""Packed layouts: exact round trips, and layout and arithmetic against plain numpy that knows only the documents."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.bfloat16 import from_bf16, to_bf16
from kernels.cpu.library import Library
from kernels.formats.table import cpu_packing
from kernels.spec import Arguments, Array


def variant(weights: str, symmetric: bool = True, int8_activations: bool = False) -> str:
    name = f"int4_{'sym' if symmetric else 'asym'}" if weights == "int4" else weights.replace("-", "_")
    return f"{name}_a8" if int8_activations and weights.startswith(("int4", "int8", "mxfp4")) else name


def pack(parts: dict[str, Array], weights: str, int8_activations: bool = False) -> dict[str, Array]:
    return cpu_packing(variant(weights, "zeros" not in parts, int8_activations)).pack(parts)


def logical(
    rng: np.random.Generator, weights: str, rows: int, columns: int, group_size: int, symmetric: bool
) -> dict[str, Array]:
    if weights == "fp32":
        return {"weight": rng.standard_normal((rows, columns), np.float32)}
    if weights == "bf16":
        return {"weight": to_bf16(rng.standard_normal((rows, columns), np.float32))}
    if weights == "int8":
        return {"codes": rng.integers(-128, 128, (rows, columns), np.int8), "scales": rng.random(rows, np.float32)}
    groups = columns // group_size
    if weights == "int3":
        return {
            "codes": rng.integers(0, 8, (rows, columns), np.uint8),
            "scales": rng.standard_normal((rows, columns // 32), np.float32).astype(np.float16),
        }
    if weights == "mxfp4":
        return {
            "codes": rng.integers(0, 256, (rows, columns // 2), np.uint8),
            "scales": rng.integers(115, 135, (rows, columns // 32), np.uint8),
        }
    if weights == "int4-twolevel":
        return {
            "codes": rng.integers(0, 16, (rows, columns), np.uint8),
            "steps": rng.integers(0, 16, (rows, columns // 16), np.uint8),
            "scales": rng.random(rows, np.float32),
        }
    parts: dict[str, Array] = {
        "codes": rng.integers(0, 16, (rows, columns), np.uint8),
        "scales": rng.random((rows, groups), np.float32).astype(np.float16),
    }
    return parts if symmetric else parts | {"zeros": rng.integers(0, 16, (rows, groups), np.uint8)}


def e2m1(pairs: Array) -> Array:
    """Numbers of codes, two in a byte, the first in its low nibble."""
    codes = np.stack([pairs & 15, pairs >> 4], axis=2).reshape(len(pairs), -1)
    numbers = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    return np.asarray(numbers[codes & 7] * np.where(codes & 8, -1, 1))


@given(
    weights=st.sampled_from(["fp32", "bf16", "int3", "int8", "int4", "int4-twolevel", "mxfp4"]),
    int8_activations=st.booleans(),
    symmetric=st.booleans(),
    rows=st.integers(1, 40),
    groups=st.integers(1, 3),
    group_size=st.sampled_from([32, 64]),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=60)
def test_unpack_inverts_pack(
    weights: str, int8_activations: bool, symmetric: bool, rows: int, groups: int, group_size: int, seed: int
) -> None:
    parts = logical(np.random.default_rng(seed), weights, rows, groups * group_size, group_size, symmetric)
    packed = pack(parts, weights, int8_activations)
    assert all(array.shape[0] == -(-rows // 16) for array in packed.values())
    restored = cpu_packing(variant(weights, "zeros" not in parts, int8_activations)).unpack(packed, rows)
    assert restored.keys() == parts.keys()
    for name, array in parts.items():
        assert restored[name].dtype == array.dtype
        np.testing.assert_array_equal(restored[name], array)


def test_layouts_are_those_documented() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 16, (20, 32), np.uint8)
    scales = rng.random((20, 1), np.float32).astype(np.float16)
    packed = pack({"codes": codes, "scales": scales}, "int4")
    for n in (0, 15, 16, 19):
        for k in range(32):
            word = int(packed["codes"][n // 16, k // 8, n % 16])
            byte = word >> (8 * (k % 4)) & 0xFF
            assert (byte & 15 if k % 8 < 4 else byte >> 4) == codes[n, k]
    signed = rng.integers(-128, 128, (20, 8), np.int8)
    unsigned = pack({"codes": signed, "scales": rng.random(20, np.float32)}, "int8", int8_activations=True)["codes"]
    assert all(int(unsigned[n // 16, k // 4, n % 16, k % 4]) - 128 == signed[n, k] for n in (0, 17) for k in range(8))


def test_columns_that_do_not_fill_words_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of it, got 12"):
        pack({"codes": np.zeros((4, 12), np.uint8), "scales": np.zeros((4, 1), np.float16)}, "int4")


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("weights", ["int3", "int8", "int4", "int4-twolevel", "mxfp4"])
def test_quantized_product_is_that_of_the_dequantized_matrix(library: Library, weights: str, symmetric: bool) -> None:
    rng = np.random.default_rng(3)
    t, n, k, group_size = 3, 37, 128, 32
    parts = logical(rng, weights, n, k, group_size, symmetric)
    if weights == "int8":
        matrix = parts["codes"].astype(np.float64) * parts["scales"].astype(np.float64)[:, None]
    elif weights == "int3":
        matrix = (parts["codes"].astype(np.int64) - 4) * np.repeat(parts["scales"].astype(np.float64), 32, axis=1)
    elif weights == "mxfp4":
        matrix = e2m1(parts["codes"]) * np.repeat(2.0 ** (parts["scales"].astype(np.int64) - 127), 32, axis=1)
    elif weights == "int4-twolevel":
        integers = (parts["codes"].astype(np.int64) - 8) * np.repeat(parts["steps"].astype(np.int64), 16, axis=1)
        matrix = integers * parts["scales"].astype(np.float64)[:, None]
    else:
        zero = np.repeat(parts["zeros"].astype(np.int64), group_size, axis=1) if "zeros" in parts else 8
        matrix = (parts["codes"].astype(np.int64) - zero) * np.repeat(parts["scales"].astype(np.float64), group_size, axis=1)
    x = rng.standard_normal((t, k), np.float32)
    out = np.zeros((t, n), np.float32)
    arguments: Arguments = {**pack(parts, weights), "x": x, "bias": None, "out": out}
    library.call(f"quant_matmul_{variant(weights, symmetric)}", arguments)
    bound = 2.0**-24 * k * (np.abs(x).astype(np.float64) @ np.abs(matrix).T)  # Higham 2002, equation 3.5
    assert (np.abs(out - x.astype(np.float64) @ matrix.T) <= 2 * bound).all()

    table = np.zeros((n, k), np.float32)
    library.call(
        f"embedding_{variant(weights, symmetric)}",
        {**pack(parts, weights), "token_ids": np.arange(n, dtype=np.int32), "out": table},
    )
    np.testing.assert_array_equal(table, matrix.astype(np.float32))


def test_int8_dot_products_are_exact(library: Library) -> None:
    """Extreme codes would saturate 16-bit intermediate sums."""
    k, n = 256, 16
    x_codes = np.where(np.arange(k) % 2, 127, -127).astype(np.int8)[None].repeat(2, 0)
    x_codes[1] = 127
    codes = np.full((n, k), 127, np.int8)
    codes[1::2] = -128
    out = np.zeros((2, n), np.float32)
    weight = pack({"codes": codes, "scales": np.ones(n, np.float32)}, "int8", int8_activations=True)
    sums = x_codes.reshape(2, k // 32, 32).sum(2, dtype=np.int32).cumsum(1, dtype=np.int32)
    activations: Arguments = {"x_codes": x_codes, "x_scales": np.ones(2, np.float32), "x_sums": sums}
    library.call("quant_matmul_int8_a8", {**activations, **weight, "bias": None, "out": out})
    np.testing.assert_array_equal(out, x_codes.astype(np.int64) @ codes.astype(np.int64).T)


@pytest.mark.parametrize("num_tokens", [1, 3, 21])
def test_products_of_small_floats_are_exact(each_library: Library, num_tokens: int) -> None:
    """Every code under extreme activations and, in each group another, powers of two down to those of subnormal numbers."""
    k, n = 256, 37
    rng = np.random.default_rng(num_tokens)
    x_codes = rng.choice(np.array([-127, 127], np.int8), (num_tokens, k))
    codes = rng.permuted(np.tile(np.arange(16, dtype=np.uint8), (n, k // 16)), axis=1)
    pairs = codes[:, 0::2] | codes[:, 1::2] << np.uint8(4)
    for first, x_scale in ((0, 2.0**100), (1, 2.0**100), (126, 1.0), (230, 2.0**-30)):
        scales = np.broadcast_to(np.arange(first, first + k // 32, dtype=np.uint8), (n, k // 32)).copy()
        sums = x_codes.reshape(num_tokens, k // 32, 32).sum(2, dtype=np.int32).cumsum(1, dtype=np.int32)
        out = np.zeros((num_tokens, n), np.float32)
        arguments: Arguments = {
            **pack({"codes": pairs, "scales": scales}, "mxfp4", int8_activations=True),
            "x_codes": x_codes, "x_scales": np.full(num_tokens, x_scale, np.float32), "x_sums": sums, "bias": None, "out": out,
        }  # fmt: skip
        each_library.call("quant_matmul_mxfp4_a8", arguments)
        matrix = e2m1(pairs) * np.repeat(2.0 ** (scales.astype(np.int64) - 127), 32, axis=1)
        exact = x_codes.astype(np.float64) @ matrix.T * x_scale
        np.testing.assert_allclose(out, exact, rtol=0, atol=float(2.0**-22 * np.abs(exact).max()))


def test_a_scale_that_no_weight_can_have_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a scale of MXFP4 must be at most 252 \(2\^125\), got 255"):
        pack({"codes": np.zeros((4, 16), np.uint8), "scales": np.full((4, 1), 255, np.uint8)}, "mxfp4")


@pytest.mark.parametrize("num_tokens", [1, 3, 9, 21])
def test_dot_products_of_two_levels_are_exact(each_library: Library, num_tokens: int) -> None:
    """Extreme codes and steps, on every path that so many tokens take."""
    k, n = 256, 37
    rng = np.random.default_rng(num_tokens)
    x_codes = rng.choice(np.array([-127, 127], np.int8), (num_tokens, k))
    x_codes[0] = 127
    codes, steps = rng.choice(np.array([0, 15], np.uint8), (n, k)), rng.choice(np.array([1, 15], np.uint8), (n, k // 16))
    codes[0], steps[0] = 0, 15
    out = np.zeros((num_tokens, n), np.float32)
    weight = pack({"codes": codes, "steps": steps, "scales": np.ones(n, np.float32)}, "int4-twolevel")
    sums = x_codes.reshape(num_tokens, k // 32, 32).sum(2, dtype=np.int32).cumsum(1, dtype=np.int32)
    activations: Arguments = {"x_codes": x_codes, "x_scales": np.ones(num_tokens, np.float32), "x_sums": sums}
    each_library.call("quant_matmul_int4_twolevel_a8", {**activations, **weight, "bias": None, "out": out})
    integers = (codes.astype(np.int64) - 8) * np.repeat(steps.astype(np.int64), 16, axis=1)
    np.testing.assert_array_equal(out, x_codes.astype(np.int64) @ integers.T)


@given(st.lists(st.floats(width=32, allow_nan=True), min_size=1, max_size=20))
def test_bf16_rounds_to_nearest_even(values: list[float]) -> None:
    import torch

    x = np.array(values, np.float32)
    wanted = torch.from_numpy(x).to(torch.bfloat16).float().numpy()
    np.testing.assert_array_equal(from_bf16(to_bf16(x)), wanted)


def test_a_model_of_135_million_weights_packs_quickly() -> None:
    codes = np.random.default_rng(0).integers(0, 16, (12288, 576), np.uint8)  # a quarter of SmolLM2's table
    start = time.perf_counter()
    pack({"codes": codes, "scales": np.ones((12288, 9), np.float16)}, "int4")
    assert time.perf_counter() - start < 1
