"""Every scheme's numbers, bit for bit, against compressed-tensors and ml_dtypes: ties, saturation, subnormals, every code.

Weights are compared under our scales where the library chooses others (its symmetric int8 divides by 127.5 and ours by 127).
Activations and KV caches have a rule of their own (decision 0011), written again here in numpy.
"""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest
import torch
from compressed_tensors.compressors.nvfp4.helpers import pack_fp4_to_uint8
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import dequantize, quantize
from compressed_tensors.quantization.utils import calculate_qparams
from numpy.typing import NDArray

from artifacts.precision import Scheme
from kernels.quantize_activations import gpu_reference
from kernels.quantize_activations import reference as cpu_reference
from kernels.rope_and_cache import gpu_reference as gpu_cache
from kernels.rope_and_cache import reference as cpu_cache
from kernels.scaled_matmul.packing import nvfp4_tensor_scale, pair_nibbles, split_nibbles
from optimizer.formats.two_level import as_int8
from optimizer.quantization import QuantizedMatrix, round_to_nearest
from optimizer.quantization.grid import fit_grid

F32 = NDArray[np.float32]
Codes = NDArray[np.generic]

E2M1_POSITIVE = np.float32([0, 0.5, 1, 1.5, 2, 3, 4, 6])


def tried(largest: float, midpoints: F32) -> F32:
    """One row of 128: the largest first, ties, their neighbours, tiny numbers, zeros of both signs; then its negative."""
    near = [np.nextafter(midpoints, np.float32(side), dtype=np.float32) for side in (-1, 2 * largest)]
    tiny = np.float32([0.0, -0.0, 1e-45, -1e-40, 1e-20, 2.0**-9, 2.0**-10, 3 * 2.0**-11, 2.0**-6, 15 * 2.0**-10])
    row = np.concatenate([[np.float32(largest)], midpoints, *near, tiny]).astype(np.float32)
    assert len(row) <= 128
    padded = np.pad(row, (0, 128 - len(row)), constant_values=0.75)
    return np.stack([padded, -padded])


def weights(seed: int, rows: int = 254, columns: int = 256) -> torch.Tensor:
    """Long-tailed rows of very different sizes, one of zeros, one of subnormal numbers."""
    rng = np.random.default_rng(seed)
    values = rng.standard_t(3, (rows, columns)) * np.exp2(rng.integers(-12, 4, (rows, 1)))
    values[5], values[6] = 0, values[6] * 1e-40
    return torch.from_numpy(values.astype(np.float32))


def int_ties(largest: int) -> F32:
    """Under a scale of 1: all half-integers, or 30 of them."""
    halves = np.arange(-largest + 0.5, largest, dtype=np.float32)
    return halves if len(halves) <= 30 else halves[:: len(halves) // 30][:30]


def e4m3_ties() -> F32:
    codes = np.arange(0x7F, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    ties = (codes[1:] + codes[:-1]) / 2
    return np.concatenate([ties[:10], ties[10::5], ties[-2:]])  # subnormal ones all


def stored_zeros(matrix: QuantizedMatrix) -> torch.Tensor:
    if matrix.zeros is None:
        return torch.zeros(matrix.scales.shape)
    return torch.from_numpy(matrix.zeros.astype(np.float32) - 8)


@pytest.mark.parametrize("group", [32, 64, 128, 192])
@pytest.mark.parametrize("kind", ["sym", "asym"])
def test_int4(group: int, kind: str) -> None:
    """Zero points are added to what was rounded, as in GPTQ and AWQ: the library adds them before, where odd ones turn ties."""
    rows = np.concatenate([tried(8, int_ties(8)), tried(15, int_ties(7))])
    special = torch.from_numpy(np.tile(rows, (1, 3)))
    args = QuantizationArgs(num_bits=4, strategy="group", group_size=group, symmetric=kind == "sym")
    wide = QuantizationArgs(num_bits=8, strategy="group", group_size=group)
    for weight in (weights(0, columns=384), special):
        matrix = round_to_nearest("w", weight, Scheme.parse(f"int4-g{group}-{kind}"))
        scales, zeros = torch.from_numpy(matrix.scales.astype(np.float32)), stored_zeros(matrix)
        # A scale that fp16 rounds to zero makes zeros; the library divides by it.
        safe = torch.where(scales == 0, torch.inf, scales)
        rounded = quantize(weight, safe, torch.zeros(scales.shape), args if kind == "sym" else wide)
        codes = (rounded + zeros.repeat_interleave(group, 1)).clamp(-8, 7)
        np.testing.assert_array_equal(matrix.codes, codes.numpy() + 8)
        values = dequantize(codes, scales, zeros, args)
        np.testing.assert_array_equal(matrix.dequantize(), values.numpy())


@pytest.mark.parametrize("name", ["int8", "int8-a8"])
def test_int8(name: str) -> None:
    args = QuantizationArgs(num_bits=8, strategy="channel", symmetric=True)
    for weight in (weights(1), torch.from_numpy(tried(127, int_ties(127)))):
        matrix = round_to_nearest("w", weight, Scheme.parse(name))
        scales = torch.from_numpy(matrix.scales)[:, None]
        codes = quantize(weight, torch.where(scales == 0, torch.inf, scales), torch.zeros(scales.shape), args)
        np.testing.assert_array_equal(matrix.codes, codes.numpy())
        np.testing.assert_array_equal(matrix.dequantize(), dequantize(codes, scales, torch.zeros(scales.shape), args).numpy())


def test_int4_of_two_levels() -> None:
    """The first level is the library's int8 by channel, of other codes; the second divides those by whole steps."""
    args = QuantizationArgs(num_bits=8, strategy="channel", symmetric=True)
    second = QuantizationArgs(num_bits=4, strategy="group", group_size=16, symmetric=True)
    for weight in (weights(1), weights(2) * 1e-6, torch.zeros(4, 64)):
        matrix = round_to_nearest("w", weight, Scheme.parse("int4-twolevel"))
        scales, steps = torch.from_numpy(matrix.scales)[:, None], torch.from_numpy(matrix.parts["steps"].astype(np.float32))
        assert steps.min() >= 1 and steps.max() <= 15
        products = torch.where(scales == 0, torch.inf, steps * scales)
        codes = quantize(weight, products, torch.zeros(steps.shape), second)
        np.testing.assert_array_equal(matrix.codes, codes.numpy() + 8)
        integers = dequantize(codes, steps, torch.zeros(steps.shape), second)
        assert integers.abs().max() <= 120
        values = dequantize(integers, scales, torch.zeros(scales.shape), args)
        np.testing.assert_array_equal(matrix.dequantize(), values.numpy())
        np.testing.assert_array_equal(as_int8(matrix).codes, integers.numpy())


FP8: dict[str, dict[str, object]] = {
    "fp8": {"strategy": "channel"},
    "fp8-block": {"strategy": "block", "block_structure": [128, 128]},
    "fp8-tensor": {"strategy": "tensor"},
}


@pytest.mark.parametrize("name", FP8)
def test_fp8(name: str) -> None:
    """Scales too are the library's, but for those of zeros. It adds a zero point, which makes minus zero zero."""
    args = QuantizationArgs(num_bits=8, type="float", symmetric=True, **FP8[name])
    normal = weights(2, rows=256)
    normal[5:7] = 1
    ties = np.tile(tried(448, e4m3_ties()), (64, 1))
    for weight in (normal, torch.from_numpy(ties) + 0.0):
        matrix = round_to_nearest("w", weight, Scheme.parse(name))
        assert matrix.scales is not None
        stored = torch.from_numpy(matrix.scales).reshape(len(matrix.scales), -1)
        theirs = stored[:1, :1] if name == "fp8-tensor" else stored
        extents = {"fp8": (1, weight.shape[1]), "fp8-block": (128, 128), "fp8-tensor": tuple(weight.shape)}[name]
        blocks = weight.reshape(weight.shape[0] // extents[0], extents[0], weight.shape[1] // extents[1], extents[1])
        expected, _ = calculate_qparams(blocks.amin((1, 3)), blocks.amax((1, 3)), args)
        assert torch.equal(theirs, expected)
        codes = quantize(weight, theirs, torch.zeros(theirs.shape), args, dtype=torch.float8_e4m3fn)
        np.testing.assert_array_equal(matrix.codes, codes.view(torch.uint8).numpy())
        assert torch.equal(torch.from_numpy(matrix.dequantize()), dequantize(codes, theirs, None, args, dtype=torch.float32))


def test_clipped_fp8_saturates() -> None:
    """Under scales of half the range: the only way in which a weight of fp8 lies outside."""
    weight = torch.from_numpy(tried(448, e4m3_ties()))
    grid = fit_grid("w", weight, Scheme.parse("fp8"), None, 0.5)
    codes = grid.codes(weight, torch.arange(128)).numpy()
    expected = np.clip(weight.numpy() / np.float32(0.5), -448, 448).astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
    np.testing.assert_array_equal(codes, expected)
    assert codes[0, 0] == 0x7E and codes[1, 0] == 0xFE


E2M1_TIES = (E2M1_POSITIVE[1:] + E2M1_POSITIVE[:-1]) / 2


def test_mxfp4() -> None:
    """The scale of OCP MX 1.0, section 6.3, whose largest may exceed 6: it saturates."""
    beyond = tried(7.5, E2M1_TIES)
    assert beyond.shape[1] == 128
    for weight in (weights(3), torch.from_numpy(beyond)):
        matrix = round_to_nearest("w", weight, Scheme.parse("mxfp4"))
        groups = weight.numpy().reshape(len(weight), -1, 32)
        largest = np.abs(groups).max(axis=2).astype(np.float64)
        exponents = np.floor(np.log2(np.where(largest > 0, largest, 0.5))).astype(int) - 2
        scales = np.exp2(np.clip(exponents, -127, 127)).astype(ml_dtypes.float8_e8m0fnu)
        np.testing.assert_array_equal(matrix.scales, scales.view(np.uint8))
        scaled = np.clip(groups / scales.astype(np.float32)[:, :, None], -6, 6)
        codes = scaled.reshape(weight.shape).astype(np.float32).astype(ml_dtypes.float4_e2m1fn)
        np.testing.assert_array_equal(split_nibbles(matrix.codes), codes.view(np.uint8))
        values = codes.astype(np.float32) * np.repeat(scales.astype(np.float32), 32, axis=1)
        np.testing.assert_array_equal(matrix.dequantize(), values)


NVFP4 = QuantizationArgs(
    num_bits=4, type="float", strategy="tensor_group", group_size=16, scale_dtype=torch.float8_e4m3fn
)  # fmt: skip


@pytest.mark.parametrize("largest", [6.0, 2688.0, 0.37])
def test_nvfp4(largest: float) -> None:
    """Codes, scales and values under the same scale of the tensor: the library's reciprocal of ours is exact."""
    ties = np.concatenate([tried(largest, E2M1_TIES * np.float32(largest / 6)), tried(6, E2M1_TIES)])
    for weight in (weights(4) * largest, torch.from_numpy(ties)):
        matrix = round_to_nearest("w", weight, Scheme.parse("nvfp4"))
        assert matrix.scales is not None and matrix.row_scales is not None
        scale = nvfp4_tensor_scale(float(weight.abs().max()))
        assert set(matrix.row_scales.tolist()) == {float(scale)}
        groups = weight.reshape(len(weight), -1, 16)
        divisor = torch.tensor([1 / float(scale)])
        theirs, _ = calculate_qparams(groups.amin(2), groups.amax(2), NVFP4, divisor)
        ours = torch.from_numpy(matrix.scales).view(torch.float8_e4m3fn).float()
        # What e4m3 rounds to zero has codes of zero here; the library takes a scale of 0.125.
        assert torch.equal(ours, torch.where(ours == 0, 0, theirs.float()))
        codes = quantize(weight, torch.where(ours == 0, 448.0, ours), None, NVFP4, dtype=torch.float32, global_scale=divisor)
        codes = torch.where((ours == 0).repeat_interleave(16, 1), 0.0, codes)
        stored = split_nibbles(matrix.codes)
        without_minus_zero = np.where(stored == 8, 0, stored)  # which the library does not have
        np.testing.assert_array_equal(pair_nibbles(without_minus_zero), pack_fp4_to_uint8(codes + 0.0).numpy())
        values = dequantize(codes, ours, None, NVFP4, dtype=torch.float32, global_scale=divisor)
        np.testing.assert_array_equal(matrix.dequantize(), values.numpy())


def test_nvfp4_as_ml_dtypes_has_its_numbers() -> None:
    """Every code under every scale, subnormal ones too, and a clipped range, which saturates."""
    codes, scales = np.tile(np.arange(16, dtype=np.uint8), (127, 1)), np.arange(127, dtype=np.uint8)[:, None]
    matrix = QuantizedMatrix(
        Scheme.parse("nvfp4"),
        {"codes": codes[:, 0::2] | codes[:, 1::2] << 4, "scales": scales, "row_scales": np.full(127, 2.0**-20, np.float32)},
    )
    numbers = codes.view(ml_dtypes.float4_e2m1fn).astype(np.float32) * scales.view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    np.testing.assert_array_equal(matrix.dequantize(), numbers * np.float32(2.0**-20))
    weight = torch.from_numpy(tried(6, E2M1_TIES))
    grid = fit_grid("w", weight, Scheme.parse("nvfp4"), 6 * 448.0, 0.5)
    steps = grid.spacing.numpy().repeat(16, axis=1)
    expected = np.clip(weight.numpy() / np.where(steps == 0, np.inf, steps), -6, 6).astype(ml_dtypes.float4_e2m1fn)
    found = grid.codes(weight, torch.arange(128)).numpy()
    np.testing.assert_array_equal(found, np.where(steps == 0, 0, expected.view(np.uint8)))
    assert (found & 7 == 7).sum() > 16


def expected_rows(x: F32, limit: float, least: float, dtype: type) -> tuple[Codes, F32]:
    """Codes and scales [..., 1]: amax is at least `least`, both divisions and the product round to nearest, ties to even."""
    amax = np.maximum(np.abs(x).max(axis=-1, keepdims=True), np.float32(least))
    scaled = np.clip(x * (np.float32(limit) / amax), -limit, limit).astype(np.float32)
    return (np.rint(scaled) if dtype is np.int8 else scaled).astype(dtype), amax / np.float32(limit)


def inputs(limit: float) -> F32:
    """Rows that have ties under their scale, long-tailed ones, zeros, subnormal ones, and the largest that bf16 has."""
    ties = int_ties(127) if limit == 127 else e4m3_ties()
    rows = np.concatenate([tried(limit, ties), weights(7, 60, 128).numpy(), tried(limit, ties) * np.float32(3e-42)])
    rows = np.concatenate([rows, np.full((1, 128), 3.3e38, np.float32), np.zeros((1, 128), np.float32)])
    return rows.astype(np.float32)


KINDS: list[tuple[torch.dtype, float, type]] = [
    (torch.int8, 127.0, np.int8),
    (torch.float8_e4m3fn, 448.0, ml_dtypes.float8_e4m3fn),
]


@pytest.mark.parametrize(("dtype", "limit", "theirs"), KINDS, ids=["int8", "e4m3"])
def test_activations_per_token(dtype: torch.dtype, limit: float, theirs: type) -> None:
    x = inputs(limit)
    codes, scales = torch.empty(x.shape, dtype=dtype), torch.empty(len(x))
    gpu_reference.quantize_rows(torch.from_numpy(x), codes, scales)
    expected, expected_scales = expected_rows(x, limit, 1e-10, theirs)
    np.testing.assert_array_equal(codes.view(torch.uint8).numpy(), expected.view(np.uint8))
    np.testing.assert_array_equal(scales.numpy(), expected_scales[:, 0])


def test_activations_in_blocks() -> None:
    x = inputs(448.0)
    x = np.concatenate([x, x[::-1], x[:, :64]], axis=1)
    codes, scales = torch.empty(x.shape, dtype=torch.float8_e4m3fn), torch.empty(len(x), 3)
    gpu_reference.quantize_blocks(torch.from_numpy(x), codes, scales)
    for block, part in enumerate((x[:, :128], x[:, 128:256], x[:, 256:])):
        expected, expected_scales = expected_rows(part, 448.0, 1e-10, ml_dtypes.float8_e4m3fn)
        found = codes.view(torch.uint8).numpy()[:, 128 * block : 128 * block + part.shape[1]]
        np.testing.assert_array_equal(found, expected.view(np.uint8))
        np.testing.assert_array_equal(scales[:, block].numpy(), expected_scales[:, 0])


def test_static_activations_saturate() -> None:
    x, scale = np.concatenate([inputs(448.0), tried(1000, e4m3_ties())]), np.float32(1.0)
    for scale in (np.float32(1), np.float32(0.37), np.float32(2.0**-30)):
        codes = torch.empty(x.shape, dtype=torch.float8_e4m3fn)
        gpu_reference.quantize_with(torch.from_numpy(x), codes, torch.tensor([scale]))
        with np.errstate(over="ignore"):
            expected = np.clip(x * (np.float32(1) / scale), -448, 448).astype(ml_dtypes.float8_e4m3fn)
        np.testing.assert_array_equal(codes.view(torch.uint8).numpy(), expected.view(np.uint8))


def test_a_cpus_activations_per_token() -> None:
    x = inputs(127.0)
    codes, scales, sums = torch.empty(x.shape, dtype=torch.int8), torch.empty(len(x)), torch.empty(len(x), 4, dtype=torch.int32)
    cpu_reference.quantize_activations(torch.from_numpy(x), codes, scales, sums)
    check_cpu(codes.numpy(), scales.numpy(), x)
    np.testing.assert_array_equal(sums.numpy(), codes.numpy().astype(np.int32).reshape(len(x), 4, 32).sum(2).cumsum(1))


def check_cpu(codes: Codes, scales: F32, x: F32) -> None:
    """As on a GPU, but that a row below 1e-36 is zeros, whose scale is zero."""
    expected, expected_scales = expected_rows(x, 127.0, 1e-36, np.int8)
    is_zero = np.abs(x).max(axis=-1) < np.float32(1e-36)
    np.testing.assert_array_equal(codes, np.where(is_zero[..., None], 0, expected))
    np.testing.assert_array_equal(scales, np.where(is_zero, 0, expected_scales[..., 0]))


def cached(module: object, dtype: torch.dtype, x: F32, layout: Callable[[int, int, int], tuple[int, ...]]) -> list[NDArray]:
    """Codes and scales [T, H, ...] of keys and values x [T, H, D], written to an int8 or e4m3 cache without rotation."""
    (tokens, heads, width), block = x.shape, 16
    blocks = -(-tokens // block)
    rows = torch.from_numpy(x)
    still = {"cos": torch.ones(1, width // 2), "sin": torch.zeros(1, width // 2)}
    caches = [torch.zeros(layout(blocks, heads, width), dtype=dtype) for _ in "kv"]
    on_cpu = module is cpu_cache
    if on_cpu:
        caches[0] = caches[0].transpose(2, 3).contiguous()
    scales = [torch.zeros((blocks, heads, block) if on_cpu else (blocks, block, heads)) for _ in "kv"]
    write = cpu_cache.rope_and_cache_int8 if on_cpu else gpu_cache.gpu_rope_and_cache_e4m3
    write(
        q=rows.clone(), k=rows.clone(), v=rows.clone(), **still, positions=torch.zeros(tokens, dtype=torch.int64),
        slot_mapping=torch.arange(tokens), k_cache=caches[0], v_cache=caches[1], k_scales=scales[0], v_scales=scales[1],
    )  # fmt: skip
    if on_cpu:
        caches = [caches[0].permute(0, 3, 1, 2), caches[1].permute(0, 2, 1, 3)]
        scales = [one.permute(0, 2, 1) for one in scales]
    found = [cache.reshape(-1, heads, width)[:tokens].contiguous().view(torch.uint8) for cache in caches]
    return [array.numpy() for array in (*found, *(one.reshape(-1, heads)[:tokens] for one in scales))]


@pytest.mark.parametrize(("dtype", "limit", "theirs"), KINDS, ids=["int8", "e4m3"])
def test_kv_cache_of_a_gpu_per_token_and_head(dtype: torch.dtype, limit: float, theirs: type) -> None:
    x = inputs(limit).reshape(-1, 2, 128)
    k, v, k_scales, v_scales = cached(gpu_cache, dtype, x, lambda blocks, heads, width: (blocks, 16, heads, width))
    expected, scales = expected_rows(x, limit, 1e-10, theirs)
    for found, found_scales in ((k, k_scales), (v, v_scales)):
        # Rotation by nothing adds a zero, which has a sign in e4m3.
        minus_zero = (expected.view(np.uint8) == 0x80) & (found == 0) if theirs is not np.int8 else False
        np.testing.assert_array_equal(np.where(minus_zero, 0x80, found), expected.view(np.uint8))
        np.testing.assert_array_equal(found_scales, scales[..., 0])


def test_kv_cache_of_a_cpu_per_token_and_head() -> None:
    x = inputs(127.0).reshape(-1, 2, 128)
    k, v, k_scales, v_scales = cached(cpu_cache, torch.int8, x, lambda blocks, heads, width: (blocks, heads, 16, width))
    for found, found_scales in ((k, k_scales), (v, v_scales)):
        check_cpu(found.view(np.int8), found_scales, x)
