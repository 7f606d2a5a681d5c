"""NVIDIA machine code, read from what `nvdisasm` and `cuobjdump -res-usage` print."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from kernels.compile.instructions import Instruction, Kind, UnreadableCode

INSTRUCTION_BYTES = 16
"""Since Volta."""

_LINE = re.compile(
    r"^\s+/\*(?P<address>[0-9a-f]{4,})\*/\s+(?P<guard>@!?U?P[0-9T]\s+)?(?P<name>[A-Z][\w.]*)(?P<operands>[^;]*);"
)
_USAGE = re.compile(r"REG:(\d+) STACK:(\d+)")
_TARGET = re.compile(r"\b0x([0-9a-f]+)\s*$")

_OPCODES: dict[Kind, str] = {
    "global_load": "LDG LD",
    "async_copy": "LDGSTS",
    "tma_load": "UTMALDG UBLKCP",
    "tma_store": "UTMASTG UTMAREDG UBLKRED",
    "global_store": "STG ST",
    "atomic": "ATOM ATOMG ATOMS ATOMSP RED REDG REDAS",
    "shared_load": "LDS LDSM",
    "shared_store": "STS STSM",
    "tensor_memory": "LDTM STTM UTCCP UTCSHIFT",
    "spill": "LDL STL",
    "constant": "LDC LDCU ULDC",
    "transcendental": "MUFU",
    "conversion": "F2F F2FP F2I F2IP I2F I2FP I2I I2IP FRND UF2FP UI2F UI2FP UF2I UF2F UFRND",
    "logic": "LOP3 LOP PLOP3 SHF SHL SHR PRMT SGXT BMSK SEL P2R R2P PSETP BREV FLO POPC",
    "integer": "IMAD IADD IADD3 IADD64 IABS ISETP ISET LEA IMNMX IDP ISCADD IMUL VIADD VIADDMNMX VIMNMX VIMNMX3 VABSDIFF",
    "float": "FADD FMUL FFMA FMNMX FMNMX3 FSEL FSET FSETP FCHK FSWZADD FADD2 FMUL2 FFMA2 FHADD FHFMA "
    "HADD2 HMUL2 HFMA2 HMNMX2 HSET2 HSETP2 VHMNMX DADD DMUL DFMA DSETP DMNMX",
    "shuffle": "SHFL VOTE VOTEU REDUX CREDUX MATCH ELECT",
    "move": "MOV MOV32I CS2R S2R R2UR S2UR CS2UR UR2UP LEPC",
    "barrier": "BAR SYNCS DEPBAR LDGDEPBAR ARRIVES WARPSYNC WARPGROUP WARPGROUPSET MEMBAR FENCE ERRBAR CGAERRBAR CCTL CCTLL "
    "NANOSLEEP UCGABAR_ARV UCGABAR_WAIT UTCBAR UTMACCTL UTMACMDFLUSH UTCATOMSWS UVIRTCOUNT USETMAXREG ACQBULK PREEXIT "
    "B2R R2B YIELD",
    "control": "BRA BRX BRXU JMP JMX JMXU CALL RET EXIT BSSY BSYNC BREAK BMOV BPT KILL NOP RPCMOV",
}
_KIND_OF: dict[str, Kind] = {opcode: kind for kind, opcodes in _OPCODES.items() for opcode in opcodes.split()}
_LEAVES = frozenset(("EXIT", "RET", "KILL"))
_BRANCHES = frozenset(("BRA", "JMP", "CALL"))
#: Where these go is in a register.
_INDIRECT = frozenset(("BRX", "BRXU", "JMX", "JMXU"))
#: Kinds of which the whole mnemonic says what an instruction costs.
_TOLD_BY_MODIFIERS: frozenset[Kind] = frozenset(
    ("tensor", "tma_load", "tma_store", "tensor_memory", "transcendental", "conversion")
)
_MEMORY: frozenset[Kind] = frozenset(
    ("global_load", "async_copy", "global_store", "atomic", "shared_load", "shared_store", "spill", "constant")
)
_BITS = {"U8": 8, "S8": 8, "U16": 16, "S16": 16, "64": 64, "96": 96, "128": 128, "256": 256}


@dataclass(frozen=True)
class Resources:
    """Of one thread of a kernel: registers, and bytes of local memory."""

    registers: int
    stack_bytes: int


def parse_resources(text: str) -> Resources:
    """Reads the resource usage of a cubin with one kernel; UnreadableCode where it is not that."""
    usages = _USAGE.findall(text)
    if len(usages) != 1:
        raise UnreadableCode(f"a record is of one kernel, with its registers (REG:, STACK:); this text has {len(usages)}")
    return Resources(*map(int, usages[0]))


def parse_sass(text: str, sizes: Sequence[int]) -> list[tuple[Instruction, ...]]:
    """Reads the disassembly of kernels that lie one behind the other, `sizes` bytes each.

    Addresses are from the beginning of each kernel. The padding at its end, a branch to itself and NOPs, is left out.
    UnreadableCode if not every 16 bytes are an instruction.
    """
    lines = [match for line in text.splitlines() if (match := _LINE.match(line))]
    if len(lines) * INSTRUCTION_BYTES != sum(sizes):
        raise UnreadableCode(f"{sum(sizes)} bytes of code are an instruction per {INSTRUCTION_BYTES}; {len(lines)} can be read")
    kernels = []
    first = 0
    for size in sizes:
        following = first + size // INSTRUCTION_BYTES
        code = [_instruction(line, first * INSTRUCTION_BYTES) for line in lines[first:following]]
        while code and (code[-1].form == "NOP" or code[-1].targets == (code[-1].address,)):
            code.pop()
        kernels.append(tuple(code))
        first = following
    return kernels


def _instruction(match: re.Match[str], beginning: int) -> Instruction:
    opcode, *modifiers = match["name"].split(".")
    guarded = match["guard"] is not None
    address = int(match["address"], 16) - beginning
    kind = _kind(opcode, modifiers)
    if opcode in _INDIRECT:
        raise UnreadableCode(f"loops are found by direct branches; {match['name']} at {address:#x} goes where a register says")
    if opcode in _BRANCHES:
        # Without a guard, `BRA.U !UP0, 0x90` and `BRA.DIV UR4, 0x90` are conditional all the same; a call comes back.
        target = _TARGET.search(match["operands"])
        always = not guarded and opcode != "CALL" and "," not in match["operands"]
        return Instruction(
            address, opcode, kind, targets=(int(target[1], 16) - beginning,) if target else (), continues=not always
        )
    if kind in _MEMORY:
        lane_bytes = _lane_bytes(opcode, modifiers)
        return Instruction(address, f"{opcode}.{lane_bytes * 8}", kind, lane_bytes)
    form = match["name"] if kind in _TOLD_BY_MODIFIERS else opcode
    return Instruction(address, form, kind, continues=guarded or opcode not in _LEAVES)


def _kind(opcode: str, modifiers: list[str]) -> Kind:
    if opcode.endswith("MMA"):
        return "tensor"
    if opcode == "HADD2" and "F32" in modifiers:
        return "conversion"  # half to single: adds zero
    if opcode in _KIND_OF:
        return _KIND_OF[opcode]
    return "uniform" if opcode.startswith("U") else "other"


def _lane_bytes(opcode: str, modifiers: list[str]) -> int:
    if opcode in ("LDSM", "STSM"):
        # 8 x 8 matrices of 16-bit elements, four bytes a lane each: LDSM.16.M88.4 moves four.
        return 4 * next((int(modifier) for modifier in modifiers[1:] if modifier in ("2", "4")), 1)
    return next((_BITS[modifier] for modifier in modifiers if modifier in _BITS), 32) // 8
