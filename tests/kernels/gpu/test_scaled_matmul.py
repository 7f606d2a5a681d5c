"""scaled_matmul beyond its defaults: other tiles, fp32 logits, offsets past 2^31, the small floats and their widening."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from kernels import registry
from kernels.e2m1.triton import widen_e2m1
from kernels.formats.float4 import MXFP4, NVFP4
from kernels.formats.format import Format
from kernels.gpu.launch import Problem, TensorMeta
from kernels.gpu.target import ARCHS, Target
from kernels.gpu.tensors import meta
from kernels.interpreter import Interpreter
from kernels.scaled_matmul.gpu_reference import unpacked_mxfp4, unpacked_nvfp4
from kernels.scaled_matmul.gpu_tuning import TUNING
from kernels.scaled_matmul.packing import (
    decode_e2m1,
    decode_e4m3,
    encode_e2m1,
    encode_e4m3,
    encode_mxfp4,
    pack_mxfp4,
    pack_nvfp4,
    pair_nibbles,
    unpack_mxfp4,
    unpack_nvfp4,
)
from kernels.scaled_matmul.triton import _e4m3_multiplier, _e8m0_multiplier, row_pointers
from kernels.spec import Array, axis_extent
from tests.kernels.gpu import contract

_FEW_SMS = Target.of("sm_90", 2)
_BASE = {
    "BLOCK_K": 64,
    "SPLIT_K": 1,
    "GROUP_M": 1,
    "PERSISTENT": 0,
    "USE_TMA": 0,
    "SWAP_AB": 0,
    "num_warps": 8,
    "num_stages": 2,
}
#: What no default takes, and the tile whose channels have two block scales.
_PERSISTENT = {"BLOCK_M": 32, "BLOCK_N": 128, "PERSISTENT": 1, "GROUP_M": 8}
_PERSISTENT_SWAPPED = {"BLOCK_M": 64, "BLOCK_N": 32, "PERSISTENT": 2, "SWAP_AB": 1}
_SPLIT_TMA = {"BLOCK_M": 64, "BLOCK_N": 128, "SPLIT_K": 3, "USE_TMA": 1}
_TWO_SCALES = {"BLOCK_M": 64, "BLOCK_N": 256}


def decoded(weights: Format, **parts: Array) -> Array:
    return weights.decode(parts).values()


_BLOCK, _MX, _NV = "gpu_scaled_matmul_e4m3_block", "gpu_scaled_matmul_mxfp4", "gpu_scaled_matmul_nvfp4"


@pytest.mark.parametrize(
    ("symbol", "case_name", "point"),
    [
        ("gpu_matmul", "prefill", _PERSISTENT),
        ("gpu_matmul", "prefill", _PERSISTENT_SWAPPED | {"USE_TMA": 1}),
        (_MX, "prefill", _PERSISTENT_SWAPPED),
        (_NV, "prefill", _PERSISTENT_SWAPPED),
        (_BLOCK, "ragged", _SPLIT_TMA),
        (_BLOCK, "prefill", _TWO_SCALES),
        (_BLOCK, "prefill", _TWO_SCALES | {"SWAP_AB": 1}),
    ],
)
def test_points_that_are_no_defaults(symbol: str, case_name: str, point: dict[str, int]) -> None:
    spec = registry.spec(symbol).typed("f16")
    case = next(case for case in spec.cases if case.name == case_name)
    assert not contract.violations(spec, case, Interpreter().run, _BASE | point, _FEW_SMS)


@pytest.mark.parametrize("num_tokens", [3, 70])
def test_logits_are_written_in_fp32(num_tokens: int) -> None:
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.standard_normal((num_tokens, 256), np.float32)).half()
    weight = torch.from_numpy(rng.standard_normal((80, 256), np.float32)).half()
    out = torch.zeros(num_tokens, 80)
    problem = Problem("gpu_matmul", {"x": meta(x), "weight": meta(weight), "out": meta(out)})
    Interpreter().run(registry.plan_call(problem, contract.TARGET), {"x": x, "weight": weight, "out": out})
    true = x.double() @ weight.double().T
    assert (out.double() - true).abs().max() < 1e-6 * true.abs().max()


@triton.jit
def _addresses_kernel(base_ptr, out_ptr, first, count, STRIDE: tl.constexpr):
    distances = row_pointers(base_ptr, first, count, STRIDE, 4).to(tl.int64) - base_ptr.to(tl.int64)
    tl.store(out_ptr + tl.arange(0, 4)[:, None], distances)


def test_rows_lie_past_2_31_elements() -> None:
    # Every row of x, of its scales, of partial sums and of out is found by these pointers; here nothing is read through them.
    out = torch.zeros(4, dtype=torch.int64)
    _addresses_kernel[(1,)](torch.zeros(1, dtype=torch.float16), out, 60_000, 60_003, STRIDE=128_256)
    assert out.tolist() == [2 * 128_256 * row for row in (60_000, 60_001, 60_002, 60_002)]


def test_e4m3_codes_are_those_of_torch() -> None:
    rng = np.random.default_rng(0)
    values = (rng.standard_normal(20_000) * np.exp2(rng.integers(-14, 10, 20_000))).astype(np.float32)
    values[:2] = [0.0, -0.0]
    clamped = torch.from_numpy(values).clamp(-448, 448).to(torch.float8_e4m3fn)
    codes = encode_e4m3(values)
    assert codes.tolist() == clamped.view(torch.uint8).tolist()
    assert decode_e4m3(codes).tolist() == clamped.float().tolist()


def test_every_e4m3_code_and_every_midpoint() -> None:
    codes = np.arange(256, dtype=np.uint8)
    values = decode_e4m3(codes)
    np.testing.assert_array_equal(values, torch.from_numpy(codes).view(torch.float8_e4m3fn).float().numpy())
    positive = values[:127]
    midpoints = (positive[1:] + positive[:-1]) / 2
    assert encode_e4m3(midpoints).tolist() == torch.from_numpy(midpoints).to(torch.float8_e4m3fn).view(torch.uint8).tolist()
    assert encode_e4m3(np.float32([np.inf, -np.inf, 1e30])).tolist() == [0x7E, 0xFE, 0x7E]


def test_mxfp4_is_the_nearest_code_under_the_specified_scale() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    rng = np.random.default_rng(0)
    values = (rng.standard_normal((8, 96)) * np.exp2(rng.integers(-9, 2, (8, 96)))).astype(np.float32)
    values[0, :32] = 0
    values[1, :8] = [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 4.0]  # ties, under a scale of 1
    values[1, 8:32] = 0
    codes, scales = encode_mxfp4(values)
    largest = np.abs(values.reshape(8, 3, 32)).max(axis=2)
    powers = np.exp2(np.floor(np.log2(np.where(largest > 0, largest, 1))) - 2)
    np.testing.assert_array_equal(scales[largest > 0], (np.log2(powers) + 127)[largest > 0])
    scaled = np.clip(values / powers.repeat(32, axis=1), -6, 6)
    expected = scaled.astype(np.float32).astype(ml_dtypes.float4_e2m1fn).astype(np.float32)
    np.testing.assert_array_equal(decoded(MXFP4, codes=codes, scales=scales), expected * powers.repeat(32, axis=1))


@pytest.mark.parametrize(("rows", "width"), [(40, 96), (1, 32), (16, 64)])
def test_packing_loses_nothing_and_the_reference_finds_it(rows: int, width: int) -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 256, (rows, width // 2), np.uint8)
    scales = rng.integers(90, 129, (rows, width // 32)).astype(np.uint8)
    packed = pack_mxfp4(codes, scales)
    values = unpacked_mxfp4(*map(torch.from_numpy, packed))[:rows, :width].numpy()
    np.testing.assert_array_equal(values, decoded(MXFP4, codes=codes, scales=scales))
    for ours, theirs in zip(unpack_mxfp4(*packed, rows, width), (codes, scales), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(("rows", "width"), [(40, 208), (1, 16), (16, 64)])
def test_packed_nvfp4_loses_nothing_and_the_reference_finds_it(rows: int, width: int) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    rng = np.random.default_rng(0)
    scales = rng.integers(0, 0x7F, (rows, width // 16)).astype(np.uint8)
    nibbles = rng.integers(0, 16, (rows, width)).astype(np.uint8) * (scales > 0).repeat(16, axis=1)
    packed = pack_nvfp4(pair_nibbles(nibbles), scales)
    numbers, local = nibbles.view(ml_dtypes.float4_e2m1fn), scales.view(ml_dtypes.float8_e4m3fn)
    expected = numbers.astype(np.float32) * local.astype(np.float32).repeat(16, axis=1)
    values = unpacked_nvfp4(*map(torch.from_numpy, packed))[:rows, :width]
    np.testing.assert_array_equal(values.numpy(), expected)
    # The kernel's operand: every product is a number of either type, also over 128.
    for dtype in (torch.bfloat16, torch.float16):
        assert torch.equal((values / 128).to(dtype).float() * 128, values)
    for ours, theirs in zip(unpack_nvfp4(*packed, rows, width), (pair_nibbles(nibbles), scales), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_scale_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"at most 135 \(2\^8\), got 136"):
        pack_mxfp4(np.zeros((1, 16), np.uint8), np.array([[136]], np.uint8))
    for code in (0x7F, 0x81):
        with pytest.raises(ValueError, match="from 0 to 448"):
            pack_nvfp4(np.zeros((1, 8), np.uint8), np.array([[code]], np.uint8))


@triton.jit
def _multipliers_kernel(words_ptr, out_ptr, ACT: tl.constexpr):
    words = tl.load(words_ptr + tl.arange(0, 16)).reshape(1, 16)
    tl.store(out_ptr + tl.arange(0, 64), _e4m3_multiplier(words, ACT).reshape(64))


@pytest.mark.parametrize(("act", "dtype", "power"), [(tl.bfloat16, torch.bfloat16, 119), (tl.float16, torch.float16, 7)])
def test_every_scale_of_nvfp4_as_a_multiplier(act: tl.dtype, dtype: torch.dtype, power: int) -> None:
    """Times 2^power, which the place of a code's bits divides by, but for the 128 that sums are multiplied by.

    Of 16 rows x 8 scales; the two halves of a word are one multiplier. Zero's is never used: its codes are zeros.
    """
    local = np.arange(128, dtype=np.uint8).reshape(16, 8)
    local[15, 7] = 1  # NaN
    words = pack_nvfp4(np.zeros((16, 64), np.uint8), local)[1].reshape(2, 8, 2)
    multipliers = np.empty((2, 2, 8, 2, 2))  # [k/16 % 2, k/64, row % 8, k/32 % 2, row/8]
    for part in (0, 1):
        out = torch.zeros(64, dtype=torch.int32)
        chosen = torch.from_numpy(np.ascontiguousarray(words[..., part]).ravel())
        _multipliers_kernel[(1,)](chosen, out, act)
        halves = out.numpy().view(np.uint16).reshape(2, 8, 2, 2, 2)
        np.testing.assert_array_equal(halves[..., 0], halves[..., 1])
        multipliers[part] = torch.from_numpy(halves[..., 0].astype(np.int16)).view(dtype).double().numpy()
    found = multipliers.transpose(4, 2, 1, 3, 0).reshape(16, 8)
    np.testing.assert_array_equal(found[local > 0], decode_e4m3(local)[local > 0].astype(np.float64) * 2.0**power)


@triton.jit
def _powers_kernel(words_ptr, out_ptr, ACT: tl.constexpr):
    words = tl.load(words_ptr + tl.arange(0, 8)).reshape(1, 8)
    tl.store(out_ptr + tl.arange(0, 32), _e8m0_multiplier(words, ACT).reshape(32))


@pytest.mark.parametrize(("act", "dtype", "power"), [(tl.bfloat16, torch.bfloat16, 119), (tl.float16, torch.float16, 7)])
def test_every_scale_of_mxfp4_as_a_multiplier(act: tl.dtype, dtype: torch.dtype, power: int) -> None:
    """Powers of two that f16 does not hold are zero there."""
    for first in range(0, 136, 8):
        codes = np.tile(np.arange(first, first + 8, dtype=np.uint8), 4)
        out = torch.zeros(32, dtype=torch.int32)
        _powers_kernel[(1,)](torch.from_numpy(codes.view(np.uint32)), out, act)
        halves = out.numpy().view(np.uint16).reshape(32, 2)
        np.testing.assert_array_equal(halves[:, 0], halves[:, 1])
        found = torch.from_numpy(halves[:, 0].astype(np.int16)).view(dtype)
        expected = torch.from_numpy(np.exp2(codes.astype(np.float64) - 127 + power)).to(dtype)
        assert torch.equal(found.sort().values, expected.sort().values)


def test_every_product_of_mxfp4_reaches_the_sum_exactly() -> None:
    """As below: sixteen codes under each scale that f16 takes exactly, 2^-16 to 2^8."""
    codes, scales = np.tile(np.arange(32, dtype=np.uint8) % 16, (25, 1)), np.arange(111, 136, dtype=np.uint8)[:, None]
    words, scale_words = pack_mxfp4(pair_nibbles(codes), scales)
    tensors = {
        "x": torch.eye(32, dtype=torch.float16),
        "codes": torch.from_numpy(words),
        "scales": torch.from_numpy(scale_words),
        "out": torch.zeros(32, 25),
    }
    problem = Problem(_MX, {name: meta(tensor) for name, tensor in tensors.items()})
    Interpreter().run(registry.plan_call(problem, contract.TARGET), tensors)
    np.testing.assert_array_equal(tensors["out"].numpy().T, decoded(MXFP4, codes=pair_nibbles(codes), scales=scales))


def test_every_product_of_nvfp4_reaches_the_sum_exactly() -> None:
    """Sixteen codes under each of 127 scales, one channel each, through the kernel: x picks one column, so sums are products.

    In f16: the interpreter does not multiply bf16, whose codes and multipliers have tests of their own.
    """
    codes, scales = np.tile(np.arange(16, dtype=np.uint8), (127, 1)), np.arange(127, dtype=np.uint8)[:, None]
    words, scale_words = pack_nvfp4(pair_nibbles(codes), scales)
    tensors = {
        "x": torch.eye(16, dtype=torch.float16),
        "codes": torch.from_numpy(words),
        "scales": torch.from_numpy(scale_words),
        "row_scales": torch.ones(127),
        "out": torch.zeros(16, 127),
    }
    problem = Problem(_NV, {name: meta(tensor) for name, tensor in tensors.items()})
    Interpreter().run(registry.plan_call(problem, contract.TARGET), tensors)
    expected = decoded(NVFP4, codes=pair_nibbles(codes), scales=scales, row_scales=np.ones(127, np.float32))
    np.testing.assert_array_equal(tensors["out"].numpy().T, expected)


def test_every_e2m1_code_every_midpoint_and_what_lies_beyond() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    values = decode_e2m1(np.arange(16, dtype=np.uint8))
    np.testing.assert_array_equal(values, np.arange(16, dtype=np.uint8).view(ml_dtypes.float4_e2m1fn).astype(np.float32))
    midpoints = (values[:7] + values[1:8]) / 2
    near = [np.nextafter(midpoints, np.float32(side), dtype=np.float32) for side in (0, 9)]
    tried = np.concatenate([values, midpoints, *near, np.float32([1e-45, 5.0, 6.5, 1e30, np.inf])])
    tried = np.concatenate([tried, -tried])
    expected = np.clip(tried, -6, 6).astype(ml_dtypes.float4_e2m1fn).view(np.uint8)
    np.testing.assert_array_equal(encode_e2m1(tried), expected)


def _run_ptx(text: str, word: np.ndarray) -> list[np.ndarray]:
    """What the lines of `widen_e2m1` leave in $0 .. $7 before the multiplication by $9 or $10, as 16-bit patterns."""
    registers = {"$8": word, "zero": np.uint32(0)}
    operations: dict[str, Callable[..., np.ndarray]] = {
        "shl.b32": lambda a, b: a << b,
        "shr.u32": lambda a, b: a >> b,
        "and.b32": lambda a, b: a & b,
        "mul.lo.u32": lambda a, b: a * b,
        "lop3.b32": lambda a, b, c, table: (a & b) | c,
        "fma.rn.bf16x2": lambda a, b, c: a,
        "fma.rn.f16x2": lambda a, b, c: a,
    }
    outputs = {}
    for line in text.splitlines():
        if found := re.fullmatch(r"mov\.b32 \{(\$\d), (\$\d)\}, (\w+);", line):
            outputs[found[1]], outputs[found[2]] = registers[found[3]] & 0xFFFF, registers[found[3]] >> 16
        elif (found := re.fullmatch(r"([\w.]+) (\w+), (.*);", line)) and found[1] in operations:
            operands = [
                registers[text] if text in registers else np.uint32(int(text, 0)) if text not in ("$9", "$10") else 0
                for text in found[3].split(", ")
            ]
            registers[found[2]] = operations[found[1]](*operands)
    return [outputs[f"${index}"] for index in range(8)]


@pytest.mark.parametrize(("act", "dtype", "lowest", "power"), [("bf16", torch.bfloat16, 6, 126), ("f16", torch.float16, 9, 14)])
def test_assembly_finds_the_number_of_every_code(act: str, dtype: torch.dtype, lowest: int, power: int) -> None:
    # The words of a row: codes u32 [chunk, row % 8, k/2 % 4, k/32 % 2, row/8 % 2], and what slot of which half is k.
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 256, (16, 32), np.uint8)
    words, _ = pack_mxfp4(codes, np.full((16, 2), 127, np.uint8))
    patterns = np.stack(_run_ptx(widen_e2m1(act, lowest), words.reshape(8, 4, 2, 2)), axis=-1).astype(np.uint16)
    numbers = torch.from_numpy(patterns.view(np.int16)).view(dtype).double() * 2.0**power
    ordered = numbers.numpy().reshape(8, 4, 2, 2, 2, 2, 2).transpose(3, 0, 2, 4, 5, 1, 6).reshape(16, 64)
    np.testing.assert_array_equal(ordered, decoded(MXFP4, codes=codes, scales=np.full((16, 2), 127, np.uint8)))


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("symbol", [spec.symbol for spec in registry.specs("gpu").values() if spec.op == "scaled_matmul"])
def test_defaults_are_legal_and_one_for_all_small_steps(symbol: str, arch: str) -> None:
    spec, target = registry.spec(symbol).typed("bf16"), Target.of(arch, 132)
    for n, k in ((960, 576), (576, 1536), (49152, 576), (6144, 4096), (4096, 14336), (128256, 4096)):
        binaries = set()
        for t in range(1, 17):
            tensors = {
                tensor.name: TensorMeta.contiguous(
                    tensor.dtype, *(axis_extent(axis, {"T": t, "N": n, "K": k}) for axis in tensor.axes)
                )
                for tensor in spec.tensors
                if not tensor.optional
            }
            problem = Problem(symbol, tensors)
            point = TUNING.default(problem, target)
            assert (TUNING.refusal(problem, point, target) is None) == (target.arch.has_fp8 or "e4m3" not in symbol)
            binaries.add(tuple(sorted(point.items())))
        assert len(binaries) == 1
