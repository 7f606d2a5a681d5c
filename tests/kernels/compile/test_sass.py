"""Reading SASS: snippets with a known reading, and the compiler's own account of the samples."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from kernels.compile.control_flow import natural_loops
from kernels.compile.instructions import Instruction, Mix, UnreadableCode
from kernels.compile.sass import Resources, parse_resources, parse_sass
from kernels.compile.static_record import StaticRecord
from kernels.compile.toolchain import nvidia_tool
from tests.kernels.compile.conftest import Compiled


def listing(*instructions: str) -> str:
    return "".join(f"        /*{16 * index:04x}*/                   {text} ;\n" for index, text in enumerate(instructions))


def parsed(*instructions: str) -> tuple[Instruction, ...]:
    (code,) = parse_sass(listing(*instructions), [16 * len(instructions)])
    return code


@pytest.mark.parametrize(
    ("text", "form", "kind", "lane_bytes"),
    [
        ("LDG.E.128.CONSTANT R4, desc[UR4][R2.64]", "LDG.128", "global_load", 16),
        ("@!P0 LDG.E.U8 R4, [R2.64]", "LDG.8", "global_load", 1),
        ("LDG.E R4, [R2.64+0x80]", "LDG.32", "global_load", 4),
        ("LDG.E.LTC128B.64 R4, [R2.64]", "LDG.64", "global_load", 8),
        ("LDG.E.ENL2.256 R4, R8, [R2.64]", "LDG.256", "global_load", 32),
        ("LDGSTS.E.BYPASS.LTC128B.128 [R9], [R2.64], P1", "LDGSTS.128", "async_copy", 16),
        ("STG.E.U16 [R2.64], R4", "STG.16", "global_store", 2),
        ("LDSM.16.M88.4 R80, [R53]", "LDSM.128", "shared_load", 16),
        ("LDSM.16.MT88.2 R80, [R53]", "LDSM.64", "shared_load", 8),
        ("LDSM.16.M88 R80, [R53]", "LDSM.32", "shared_load", 4),
        ("STS.U.64 [R2], R4", "STS.64", "shared_store", 8),
        ("@!UPT UIADD3 URZ, URZ, URZ, URZ", "UIADD3", "uniform", 0),
        ("@UP0 UTMALDG.2D [UR8], [UR14], desc[URZ]", "UTMALDG.2D", "tma_load", 0),
        ("HGMMA.64x128x16.F32.BF16 R24, gdesc[UR8], R24, gsb0", "HGMMA.64x128x16.F32.BF16", "tensor", 0),
        ("HMMA.16816.F32.BF16 R4, R4, R8, R4", "HMMA.16816.F32.BF16", "tensor", 0),
        ("IMMA.16832.S8.S8 R4, R4.ROW, R8.COL, R4", "IMMA.16832.S8.S8", "tensor", 0),
        ("UTCHMMA gdesc[UR6], gdesc[UR8], tmem[UR4], tmem[UR10]", "UTCHMMA", "tensor", 0),
        ("LDL.LU.64 R3, [R1+0x4]", "LDL.64", "spill", 8),
        ("MUFU.EX2 R2, R2", "MUFU.EX2", "transcendental", 0),
        ("F2FP.BF16.F32.PACK_AB R4, R5, R4", "F2FP.BF16.F32.PACK_AB", "conversion", 0),
        ("HADD2.F32 R4, -RZ, R4.H0_H0", "HADD2.F32", "conversion", 0),
        ("HADD2.BF16_V2 R4, R4, R5", "HADD2", "float", 0),
        ("LOP3.LUT R4, R4, 0xf, RZ, 0xc0, !PT", "LOP3", "logic", 0),
        ("FFMA R4, R4, R5, R6", "FFMA", "float", 0),
        ("IMAD.MOV.U32 R4, RZ, RZ, R5", "IMAD", "integer", 0),
        ("BAR.SYNC.DEFER_BLOCKING 0x0", "BAR", "barrier", 0),
        ("FROBNICATE R1", "FROBNICATE", "other", 0),
    ],
)
def test_an_instruction_is_read_as(text: str, form: str, kind: str, lane_bytes: int) -> None:
    first, _ = parsed(text, "EXIT")
    assert (first.form, first.kind, first.lane_bytes) == (form, kind, lane_bytes)


def test_registers_and_stack_are_those_of_the_kernel() -> None:
    assert parse_resources(" Function f:\n  REG:40 STACK:16 SHARED:0 LOCAL:0\n") == Resources(registers=40, stack_bytes=16)


def test_kernels_one_behind_the_other_each_begin_at_0() -> None:
    text = listing("NOP", "@P0 BRA 0x0", "EXIT", "BRA 0x30", "NOP", "NOP", "@P0 BRA 0x50", "EXIT")
    first, second = parse_sass(text, [64, 64])
    assert [(instruction.address, instruction.targets) for instruction in first] == [(0, ()), (16, (0,)), (32, ())]
    assert [(instruction.address, instruction.targets) for instruction in second] == [(0, ()), (16, ()), (32, (16,)), (48, ())]


def test_a_loop_with_a_wait_whose_slow_path_lies_behind_the_exit() -> None:
    code = parsed(
        "MOV R1, R2",
        "SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR5], R52",
        "@!P0 BRA 0x70",
        "HMMA.16816.F32.BF16 R4, R4, R8, R4",
        "LDG.E.128 R4, [R2.64]",
        "BRA.U UP0, 0x10",
        "EXIT",
        "SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR5], R52",
        "@!P0 BRA 0x70",
        "BRA 0x30",
        "BRA 0xa0",
        "NOP",
    )
    assert len(code) == 10, "the branch to itself and the NOPs at the end are padding"
    loop, spin = natural_loops(code)
    assert (loop.header, loop.depth, Mix.of(loop.own).total) == (0x10, 1, 6)
    assert (spin.header, spin.depth, Mix.of(spin.own).total) == (0x70, 2, 2)


@pytest.mark.parametrize(
    ("branch", "continues"),
    [
        ("BRA 0x0", False),
        ("@P0 BRA 0x0", True),
        ("BRA.U !UP0, 0x0", True),
        ("BRA.DIV UR4, 0x0", True),
        ("CALL.REL.NOINC 0x0", True),
        ("EXIT", False),
        ("@P0 EXIT", True),
        ("RET.REL.NODEC R2 0x0", False),
    ],
)
def test_where_control_goes_on(branch: str, continues: bool) -> None:
    assert parsed("NOP", branch, "EXIT")[1].continues is continues


def test_a_branch_by_register_is_refused() -> None:
    with pytest.raises(UnreadableCode, match="BRX at 0x10 goes where a register says"):
        parsed("NOP", "BRX R2 -0x10", "EXIT")


def test_text_that_is_no_disassembly_is_refused() -> None:
    with pytest.raises(UnreadableCode, match="this text has 0"):
        parse_resources("hello")
    with pytest.raises(UnreadableCode, match="32 bytes of code are an instruction per 16; 1 can be read"):
        parse_sass(listing("EXIT"), [32])


@pytest.mark.parametrize(
    ("name", "arch"), [("copy", "sm_80"), ("starved_matmul", "sm_80"), ("matmul", "sm_90"), ("persistent_matmul", "sm_90")]
)
def test_registers_and_spills_are_those_that_the_assembler_reports(
    name: str,
    arch: str,
    compiled: Callable[[str, str], Compiled],
    record: Callable[[str, str], StaticRecord],
    tmp_path: Path,
) -> None:
    """ptxas -v counts spilled bytes; the record counts the instructions that move them, and their widths."""
    ptx = compiled(name, arch).ptx
    (tmp_path / "kernel.ptx").write_text(ptx)
    target = re.search(r"\.target (sm_\w+)", ptx)
    assert target
    ptxas = nvidia_tool("ptxas" if arch == "sm_80" else "ptxas-blackwell")
    command = [ptxas, "-v", "--regAllocOptLevel=2", f"--gpu-name={target[1]}", "kernel.ptx", "-o", "kernel.cubin"]
    report = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stderr
    found = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", report)
    registers = re.search(r"Used (\d+) registers", report)
    assert found and registers
    stack_bytes, stored, loaded = map(int, found.groups())
    read = record(name, arch)
    assert (read.registers, read.stack_bytes) == (int(registers[1]), stack_bytes)
    assert read.mix.lane_bytes("spill") == stored + loaded
    assert (read.spills > 0) == (name == "starved_matmul")
