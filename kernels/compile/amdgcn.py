"""AMD machine code, read from the assembly that LLVM writes for gfx942 and gfx950."""

from __future__ import annotations

import re
from dataclasses import dataclass

from kernels.compile.instructions import Instruction, Kind, UnreadableCode

_DESCRIPTOR = "\t.amdhsa_kernel "
_LABEL = re.compile(r"^(\.L\w+):")
_LINE = re.compile(r"^\t(?P<name>[a-z][a-z0-9_]*)(?P<operands>[^;\n]*)")
_ENCODING = re.compile(r"_(e32|e64|sdwa|dpp|e64_dpp)$")

#: The first pattern that an opcode begins with decides.
_KINDS: tuple[tuple[str, Kind], ...] = (
    (r"v_(s?mfma|smfmac)", "tensor"),
    (r"(global|buffer)_load_lds", "async_copy"),
    (r"scratch_", "spill"),
    (r"(global|buffer|flat)_load", "global_load"),
    (r"(global|buffer|flat)_store", "global_store"),
    (r"(global|buffer|flat)_atomic|ds_(add|sub|min|max|and|or|xor|cmpst|inc|dec)", "atomic"),
    (r"(buffer_(inv|wbl2|wbinvl1)|global_wb)", "barrier"),
    (r"ds_(b?permute|swizzle)|v_permlane|v_readlane|v_writelane|v_readfirstlane", "shuffle"),
    (r"ds_(read|load)", "shared_load"),
    (r"ds_(write|store)", "shared_store"),
    (r"s_(buffer_)?load", "constant"),
    (r"s_(cbranch|branch|endpgm|setpc|swappc|getpc|call|trap|nop|code_end)", "control"),
    (r"s_(waitcnt|barrier|setprio|sleep|sethalt|sched|dcache|icache|setreg|getreg|wait|memtime)", "barrier"),
    (r"s_", "uniform"),
    (r"v_(exp|log|rcp|rsq|sqrt|sin|cos)_", "transcendental"),
    (r"v_cvt", "conversion"),
    (r"v_(mov|pk_mov|accvgpr|swap)", "move"),
    (
        r"v_(and|or|or3|xor|not|xnor|xad|bfe|bfi|bfm|bfrev|bitop3|perm|align|lshl|lshr|ashr|pk_lshl|pk_lshr|pk_ashr|cndmask|ff)",
        "logic",
    ),
    (r"v_\w*(f16|f32|f64|bf16)", "float"),
    (r"v_", "integer"),
)
_KIND_OF = tuple((re.compile(pattern), kind) for pattern, kind in _KINDS)
_WIDTH = re.compile(r"_(dwordx[234]|dword|[us]?short|[us]?byte|[biu](?:8|16|32|64|96|128))(?:_|$)")
_BYTES = {
    "dword": 4,
    "dwordx2": 8,
    "dwordx3": 12,
    "dwordx4": 16,
    "short": 2,
    "ushort": 2,
    "sshort": 2,
    "byte": 1,
    "ubyte": 1,
    "sbyte": 1,
}
_MEMORY: frozenset[Kind] = frozenset(("global_load", "async_copy", "global_store", "shared_load", "shared_store", "spill"))


@dataclass(frozen=True)
class Amdgcn:
    """A kernel's machine code. `labels` are those of its blocks, by address; an address is the instruction's position."""

    registers: int
    """VGPRs per lane, accumulation registers among them."""
    accumulators: int
    scalar_registers: int
    """As they count for occupancy: with VCC and the other implicit ones."""
    stack_bytes: int
    code_bytes: int
    code: tuple[Instruction, ...]
    labels: dict[int, str]


def parse_amdgcn(text: str) -> Amdgcn:
    """Reads the assembly of one kernel; UnreadableCode where it is not that."""
    if (num_kernels := text.count(_DESCRIPTOR)) != 1:
        raise UnreadableCode(f"a record is of one kernel, with its descriptor (.amdhsa_kernel); this text has {num_kernels}")
    body, _, rest = text.partition(_DESCRIPTOR)
    lines: list[re.Match[str]] = []
    labels: dict[str, int] = {}
    for line in body.splitlines():
        if label := _LABEL.match(line):
            labels[label[1]] = len(lines)
        elif instruction := _LINE.match(line):
            lines.append(instruction)
    return Amdgcn(
        registers=_number(r"\.amdhsa_next_free_vgpr (\d+)", rest),
        accumulators=_number(r"\.agpr_count:\s+(\d+)", rest),
        scalar_registers=_number(r"\.sgpr_count:\s+(\d+)", rest),
        stack_bytes=_number(r"\.amdhsa_private_segment_fixed_size (\d+)", rest),
        code_bytes=_number(r"codeLenInByte = (\d+)", rest),
        code=tuple(_instruction(position, line, labels) for position, line in enumerate(lines)),
        labels={position: label for label, position in labels.items()},
    )


def _number(pattern: str, text: str) -> int:
    match = re.search(pattern, text)
    if match is None:
        raise UnreadableCode(
            f"the assembly of a kernel states {pattern!r}; this one does not: was it cut, or written by another LLVM?"
        )
    return int(match[1])


def _instruction(position: int, line: re.Match[str], labels: dict[str, int]) -> Instruction:
    name, operands = _ENCODING.sub("", line["name"]), line["operands"].split()
    kind = _kind(name, operands)
    if name.startswith(("s_branch", "s_cbranch")):
        if operands[-1] not in labels:
            raise UnreadableCode(f"a branch goes to a label of the kernel; {name} goes to {operands[-1]}, which is not one")
        return Instruction(position, name, kind, targets=(labels[operands[-1]],), continues=name != "s_branch")
    lane_bytes = _lane_bytes(name) if kind in _MEMORY else 0
    return Instruction(position, name, kind, lane_bytes, continues=not name.startswith(("s_endpgm", "s_setpc")))


def _kind(name: str, operands: list[str]) -> Kind:
    for pattern, kind in _KIND_OF:
        if pattern.match(name):
            return "async_copy" if kind == "global_load" and "lds" in operands else kind
    return "other"


def _lane_bytes(name: str) -> int:
    match = _WIDTH.search(name)
    if match is None:
        raise UnreadableCode(f"a load or store names its width (dwordx4, b128, ...); {name} does not")
    pair = 2 if "read2" in name or "write2" in name else 1
    return pair * (_BYTES.get(match[1]) or int(match[1][1:]) // 8)
