"""What the contract cannot say of quant_matmul: its inline assembly, f32 logits, other points, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch

from kernels import registry
from kernels.gpu.launch import Problem
from kernels.gpu.target import ARCHS, Target
from kernels.gpu.tensors import problem
from kernels.interpreter import Interpreter
from kernels.quant_matmul import triton as kernels
from kernels.quant_matmul.gpu_packing import GPU_VARIANTS, unpack
from kernels.spec import Case
from tests.kernels.gpu import contract, test_offsets

Numbers = np.ndarray


def lut(a: Numbers, b: Numbers, c: Numbers, table: int) -> Numbers:
    """lop3: bit (4 a + 2 b + c) of the table, for each bit."""
    result = np.zeros_like(a)
    for bits in range(8):
        if table >> bits & 1:
            minterm = (a if bits & 4 else ~a) & (b if bits & 2 else ~b) & (c if bits & 1 else ~c)
            result |= minterm
    return result


def prmt(a: Numbers, b: Numbers, selector: int) -> Numbers:
    """Byte i of the result is byte (selector >> 4 i) & 7 of b : a."""
    octets = [(a >> np.uint32(8 * i)) & np.uint32(255) for i in range(4)] + [
        (b >> np.uint32(8 * i)) & np.uint32(255) for i in range(4)
    ]
    assert not selector & 0x8888, "sign replication"
    return np.bitwise_or.reduce([octets[selector >> 4 * i & 7] << np.uint32(8 * i) for i in range(4)])


def half(bits: Numbers, kind: str) -> torch.Tensor:
    dtype = torch.bfloat16 if kind == "bf16x2" else torch.float16
    return torch.from_numpy(bits.astype(np.uint16).view(np.int16)).view(dtype)


def fma(a: Numbers, b: Numbers, c: Numbers, kind: str) -> Numbers:
    """Both halves, exact in fp64, then rounded once."""
    result = np.zeros_like(a)
    for shift in (np.uint32(0), np.uint32(16)):
        x, y, z = (half((value >> shift) & np.uint32(0xFFFF), kind) for value in (a, b, c))
        rounded = (x.double() * y.double() + z.double()).to(x.dtype)
        result |= rounded.view(torch.int16).numpy().view(np.uint16).astype(np.uint32) << shift
    return result


def emulate(asm: str, operands: Mapping[str, Numbers]) -> dict[str, Numbers]:
    """What a block of PTX leaves in its registers, for all lanes of `operands` at once."""
    registers = dict(operands)
    like = next(iter(operands.values()))

    def value(name: str) -> Numbers:
        return np.full_like(like, int(name, 0)) if name[0].isdigit() else registers[name]

    for line in filter(None, (part.strip() for part in asm.strip("{}\n ").split(";"))):
        if line.startswith(".reg"):
            continue
        if packed := re.fullmatch(r"mov\.b32 \{(\S+), (\S+)\}, (\S+)", line):
            low, high, source = packed.groups()
            registers[low], registers[high] = value(source) & np.uint32(0xFFFF), value(source) >> np.uint32(16)
            continue
        operation, arguments = line.split(" ", 1)
        target, *names = arguments.split(", ")
        if operation == "lop3.b32":
            registers[target] = lut(*map(value, names[:3]), int(names[3], 0))
        elif operation == "prmt.b32":
            registers[target] = prmt(value(names[0]), value(names[1]), int(names[2], 0))
        elif operation.startswith("fma.rn."):
            registers[target] = fma(*map(value, names), operation.removeprefix("fma.rn."))
        else:
            function = {"mov.b32": lambda a: a, "shr.u32": np.right_shift, "xor.b32": np.bitwise_xor}[operation]
            registers[target] = function(*map(value, names))
    return registers


def bits(integers: Numbers, dtype: torch.dtype) -> Numbers:
    """The twin's value: an integer in the activation dtype, by way of fp32."""
    return torch.from_numpy(integers.astype(np.float32)).to(dtype).view(torch.int16).numpy().view(np.uint16)


@pytest.mark.parametrize("act", [torch.bfloat16, torch.float16])
def test_assembly_widens_every_int4_code_to_the_bits_of_its_twin(act: torch.dtype) -> None:
    asm = kernels._INT4_BF16.value if act is torch.bfloat16 else kernels._INT4_F16.value
    minus_power = 0xC300C300 if act is torch.bfloat16 else 0xE400E400
    # Every code in every nibble, among others; every zero that a checkpoint can have.
    words = np.concatenate(
        [np.random.default_rng(0).integers(0, 2**32, 64, np.uint32), np.arange(16, dtype=np.uint32) * np.uint32(0x11111111)]
    )
    for position in range(8):
        words = np.concatenate([words, np.arange(16, dtype=np.uint32) << np.uint32(4 * position)])
    for zero in range(17):
        offset = np.full_like(words, zero * 0x00010001 + minus_power)
        registers = emulate(asm, {"$8": words, "$9": offset})
        for output, shift in enumerate((0, 16, 4, 20, 8, 24, 12, 28)):
            code = (words >> np.uint32(shift) & np.uint32(15)).astype(np.int64)
            np.testing.assert_array_equal(registers[f"${output}"], bits(code - zero, act))


@pytest.mark.parametrize("act", [torch.bfloat16, torch.float16])
def test_assembly_widens_every_int8_code_to_the_bits_of_its_twin(act: torch.dtype) -> None:
    asm = kernels._INT8_BF16.value if act is torch.bfloat16 else kernels._INT8_F16.value
    codes = np.stack([np.roll(np.arange(-128, 128), shift) for shift in (0, 1, 77, 128)], axis=1).astype(np.int8)
    registers = emulate(asm, {"$2": codes.view(np.uint32)[:, 0]})
    for output in range(4):
        found = registers[f"${output // 2}"] >> np.uint32(16 * (output % 2)) & np.uint32(0xFFFF)
        np.testing.assert_array_equal(found, bits(codes[:, output], act))


@pytest.mark.parametrize("variant", GPU_VARIANTS)
def test_logits_are_f32_where_out_is(variant: str) -> None:
    spec = registry.spec(f"gpu_quant_matmul_{variant}").typed("f16")
    spec = replace(
        spec, tensors=tuple(replace(tensor, dtype="f32") if tensor.name == "out" else tensor for tensor in spec.tensors)
    )
    for name in ("decode", "split"):
        case = next(case for case in spec.cases if case.name == name)
        assert not contract.violations(spec, case, Interpreter().run)


@pytest.mark.parametrize("variant", GPU_VARIANTS)
def test_reference_is_the_product_with_the_dequantized_matrix(variant: str) -> None:
    spec = registry.spec(f"gpu_quant_matmul_{variant}").typed("f16")
    case = Case("", {"T": 3, "K": 160, "N": 27, "G": 32, "bias": 1})
    arguments = contract.make(spec, case)
    made = contract.values(spec, arguments, torch.float64)
    registry.reference(spec.symbol)(**made)
    stored = {name: np.asarray(arguments[name]) for name in ("codes", "scales", "zeros") if name in arguments}
    parts = {name: array.astype(np.float64) for name, array in unpack(stored, variant[:4], 27, 160).items()}
    if variant == "int8":
        matrix = parts["codes"] * parts["scales"][:, None]
    else:
        zeros = parts.get("zeros", np.full_like(parts["scales"], 8))
        matrix = (parts["codes"] - np.repeat(zeros, 32, axis=1)) * np.repeat(parts["scales"], 32, axis=1)
    x, out = made["x"], made["out"]
    assert isinstance(x, torch.Tensor) and isinstance(out, torch.Tensor)
    wanted = x.numpy() @ matrix.T + np.asarray(arguments["bias"])
    np.testing.assert_allclose(out.numpy(), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("variant", "sizes", "change"),
    [
        # A group is longer than a block, and splits begin inside one.
        ("int4_asym", {"T": 2, "K": 384, "N": 20, "G": 128, "bias": 1}, {"BLOCK_K": 64, "SPLIT_K": 2}),
        # Blocks of four groups, the last of them half past K, over two splits.
        ("int4_sym", {"T": 9, "K": 352, "N": 90, "G": 32, "bias": 0}, {"BLOCK_K": 128, "BLOCK_N": 64, "SPLIT_K": 2}),
        # Tiles of tokens in groups of 8, the last group of one.
        ("int4_sym", {"T": 70, "K": 64, "N": 90, "G": 64, "bias": 0}, {"BLOCK_M": 8, "BLOCK_N": 64, "GROUP_M": 8}),
        ("int8", {"T": 18, "K": 100, "N": 90, "G": 0, "bias": 1}, {"BLOCK_M": 16, "BLOCK_N": 64, "SPLIT_K": 2}),
    ],
)
def test_points_that_no_case_defaults_to(variant: str, sizes: dict[str, int], change: dict[str, int]) -> None:
    spec = registry.spec(f"gpu_quant_matmul_{variant}").typed("f16")
    case = Case("", sizes)
    default = registry.gpu_tuning("quant_matmul").default(_problem(variant, sizes), contract.TARGET)
    point = {**default, "SPLIT_K": 1, "num_warps": 4, **change}
    assert not contract.violations(spec, case, Interpreter().run, point)


@pytest.mark.parametrize("variant", ["int8", "int4_sym"])
def test_tokens_beyond_32_bits(variant: str) -> None:
    spec = registry.spec(f"gpu_quant_matmul_{variant}").typed("f16")
    arguments = contract.values(spec, contract.make(spec, Case("", {"T": 3, "K": 64, "N": 16, "G": 32, "bias": 0})))
    test_offsets.run(spec.symbol, arguments, Interpreter())


def _problem(variant: str, sizes: Mapping[str, int]) -> Problem:
    spec = registry.spec(f"gpu_quant_matmul_{variant}").typed("bf16")
    return problem(spec, contract.values(spec, contract.make(spec, Case("", {"bias": 0, **sizes}))))


@pytest.mark.parametrize("variant", GPU_VARIANTS)
@pytest.mark.parametrize("arch", ARCHS)
def test_default_is_legal_everywhere(variant: str, arch: str) -> None:
    tuning = registry.gpu_tuning("quant_matmul")
    for tokens in (1, 8, 9, 64, 300):
        for k, n, group in ((576, 960, 64), (1536, 64, 32), (512, 96, 128)):
            call = _problem(variant, {"T": tokens, "K": k, "N": n, "G": group})
            target = Target.of(arch, 132)
            tuning.checked(call, tuning.default(call, target), target)


@pytest.mark.parametrize(
    ("variant", "change", "message"),
    [
        ("int4_sym", {"SPLIT_K": 16}, "of 16 splits of 2 blocks along K the last would have none"),
        ("int4_sym", {"BLOCK_N": 64, "num_warps": 8}, "8 warps of 16 rows are more than a tile of 64"),
        ("int4_sym", {"BLOCK_M": 128, "BLOCK_N": 256, "num_warps": 8}, "registers of a thread, more than"),
        ("int8", {"BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 256, "num_warps": 8, "num_stages": 5}, "bytes of shared memory"),
    ],
)
def test_illegal_points_are_refused(variant: str, change: dict[str, int], message: str) -> None:
    tuning = registry.gpu_tuning("quant_matmul")
    call = _problem(variant, {"T": 1, "K": 256, "N": 64, "G": 128})
    point = {**tuning.default(call, contract.TARGET), **change}
    with pytest.raises(ValueError, match=message):
        tuning.checked(call, point, contract.TARGET)


def test_groups_of_another_size_are_refused() -> None:
    call = _problem("int4_sym", {"T": 1, "K": 96, "N": 16, "G": 48})
    with pytest.raises(ValueError, match="a group is 32, 64 or 128 columns"):
        registry.plan_call(call, contract.TARGET)
