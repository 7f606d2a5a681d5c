"""The rounding that every quantizing kernel shares, bit for bit against torch, and seeded bugs in it."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from kernels import registry
from kernels.interpreter import Interpreter
from tests.kernels.gpu import contract, rounding

LARGEST = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}
CODES = pytest.mark.parametrize("dtype", LARGEST, ids=str)


def _every(dtype: torch.dtype) -> torch.Tensor:
    """Every finite number of a 16-bit format."""
    numbers = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(dtype).float()
    return numbers[numbers.isfinite()]


def _ties() -> torch.Tensor:
    """What lies halfway between two codes, of int8 or e4m3, and its two neighbours."""
    e4m3 = torch.arange(127, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    halfway = torch.cat(((e4m3[1:] + e4m3[:-1]) / 2, torch.arange(130) + 0.5))
    near = [torch.nextafter(halfway, torch.tensor(towards)) for towards in (-torch.inf, torch.inf)]
    positive = torch.cat((halfway, *near))
    return torch.cat((positive, -positive))


def _encoded(x: torch.Tensor, dtype: torch.dtype, module: ModuleType = rounding) -> torch.Tensor:
    codes = torch.zeros(x.shape, dtype=dtype)
    block = 2**16
    module.encode_kernel[(-(-x.numel() // block),)](x, codes, x.numel(), BLOCK=block)
    return codes


def _expected(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    saturated = x.clamp(-LARGEST[dtype], LARGEST[dtype])
    return (saturated.round() if dtype == torch.int8 else saturated).to(dtype)


def _differ(got: torch.Tensor, want: torch.Tensor) -> int:
    return int((got.view(torch.uint8) != want.view(torch.uint8)).sum())


@CODES
@pytest.mark.parametrize("numbers", [_every(torch.bfloat16), _every(torch.float16), _ties()], ids=["bf16", "f16", "ties"])
def test_codes_are_those_of_torch(numbers: torch.Tensor, dtype: torch.dtype) -> None:
    assert _differ(_encoded(numbers, dtype), _expected(numbers, dtype)) == 0


@CODES
def test_scale_and_codes_of_a_row(dtype: torch.dtype) -> None:
    x = torch.randn(4, 64, generator=torch.Generator().manual_seed(1))
    x[1] = 0
    x[2] *= 1e-30
    codes, scales = torch.zeros(x.shape, dtype=dtype), torch.zeros(4)
    rounding.quantize_kernel[(1,)](x, codes, scales, ROWS=4, COLUMNS=64)
    torch.testing.assert_close(scales[0], x[0].abs().max() / LARGEST[dtype])
    assert codes[0].float().abs().max() == LARGEST[dtype]
    # A row of next to nothing has codes of zero, and a scale to multiply them by.
    assert not codes[1:3].float().any() and (scales > 0).all()
    half_step = scales[:, None] * (0.5 if dtype == torch.int8 else codes.float().abs() / 16 + 2**-10)
    assert ((codes.float() * scales[:, None] - x).abs()[[0, 3]] <= half_step[[0, 3]] * 1.0001).all()


BUGS = {
    "int8 truncated": ("12582912.0).to(tl.int32, bitcast=True).to(tl.int8)", "0.0).to(tl.int8)"),
    "int8 not saturated": ("tl.clamp(x, -127.0, 127.0)", "x"),
    "ties away from zero": ("0x7FFFF + ((magnitude >> 20) & 1)", "0x80000"),
    "truncated": ("magnitude + 0x7FFFF + ((magnitude >> 20) & 1)", "magnitude"),
    "subnormals as normals": ("magnitude < 0x3C800000", "magnitude < 0"),
    "sign lost": ("| ((bits >> 24) & 0x80)", ""),
    "bias off by one": ("(120 << 3)", "(119 << 3)"),
    "e4m3 not saturated": ("tl.clamp(x, -448.0, 448.0)", "x"),
}


@pytest.mark.parametrize("bug", BUGS)
def test_seeded_bug_is_caught(bug: str, tmp_path: Path) -> None:
    module: Any = _with_bug(*BUGS[bug], Path(rounding.__file__), tmp_path)
    numbers = torch.cat((_every(torch.bfloat16), _ties()))
    assert any(_differ(_encoded(numbers, dtype, module), _expected(numbers, dtype)) for dtype in LARGEST)


STORE_BUGS = {
    "one scale for all rows": ("int8", "tl.store(scales_ptr + scales_at, scale)", "tl.store(scales_ptr, scale)"),
    "blocks counted from the program's first": ("e4m3_block", "first // SCALE_BLOCK + tl.arange", "tl.arange"),
    "blocks in the wrong order": ("e4m3_block", "tl.max(tl.abs(x), axis=axis)", "tl.flip(tl.max(tl.abs(x), axis=axis))"),
    "multiplied by the scale": ("e4m3_tensor", "tl.div_rn(1.0, tl.load(scales_ptr))", "tl.load(scales_ptr)"),
    "the largest, not the largest magnitude": ("e4m3", "tl.max(tl.abs(x), axis=axis)", "tl.max(x, axis=axis)"),
    "scale and inverse exchanged": (
        "int8",
        "tl.div_rn(amax, limit), tl.div_rn(limit, amax)",
        "tl.div_rn(limit, amax), tl.div_rn(amax, limit)",
    ),
}


@pytest.mark.parametrize("bug", STORE_BUGS)
def test_seeded_bug_in_storing_is_caught(bug: str, tmp_path: Path) -> None:
    """As tests/kernels/gpu/test_mutations.py, with the bug in the functions that the op imports."""
    form, old, new = STORE_BUGS[bug]
    spec = registry.spec(f"gpu_quantize_activations_{form}").typed("f16")
    case = next(case for case in spec.cases if case.name == "several_blocks")
    module = _with_bug(old, new, registry.ROOT / spec.op / "triton.py", tmp_path)
    assert contract.violations(spec, case, Interpreter({spec.op: module}).run)


def _with_bug(old: str, new: str, kernels_file: Path, folder: Path) -> ModuleType:
    """The kernels of a file over device functions with a bug in."""
    functions = (registry.ROOT / "gpu" / "triton.py").read_text(encoding="utf-8")
    assert functions.count(old) == 1, f"{old!r} must stand once in gpu/triton.py"
    kernels = kernels_file.read_text(encoding="utf-8")
    text = functions.replace(old, new) + kernels[kernels.index("@triton.jit") :]
    path = folder / f"mutated_{hashlib.sha256(text.encode()).hexdigest()[:16]}.py"
    path.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module
