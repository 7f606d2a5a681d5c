"""How many blocks of a kernel an SM (a CU) holds at once.

Sources. NVIDIA: CUDA C++ Programming Guide, table "Technical Specifications per Compute Capability", and for the units in which
registers and shared memory are given out `cuda_occupancy.h` of the CUDA toolkit. AMD: "AMD Instinct MI300" (CDNA3) and CDNA4
instruction set guides, and the LLVM AMDGPU backend for the units and for what the trap handler takes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal, TypeAlias

Limit: TypeAlias = Literal["warps", "blocks", "registers", "scalar registers", "shared memory"]


@dataclass(frozen=True)
class Multiprocessor:
    """Resources of an SM or CU. Its four schedulers (SIMDs) each own a quarter of the warps and registers."""

    max_warps: int
    max_blocks: int
    shared_bytes: int
    """For all blocks together."""
    registers: int = 65536
    """32-bit registers of one lane times the lanes: 64 K on NVIDIA, 4 SIMDs x 512 VGPRs x 64 lanes on CDNA."""
    warp_size: int = 32
    register_unit: int = 256
    """Registers are given to a warp in multiples of this many."""
    max_registers: int = 255
    """Per thread."""
    shared_unit: int = 128
    shared_reserved: int = 1024
    """What the system takes of shared memory per block."""
    scalar_registers: int = 0
    """Per SIMD; 0 where they are no limit."""
    cycles_per_instruction: int = 1
    """Clocks for which a warp's instruction holds its scheduler: a CDNA SIMD feeds 64 lanes to 16-lane units in four."""
    issue_prefix: str = ""
    """Which instructions a scheduler issues one at a time. On CDNA scalar and memory ones of other waves issue beside them."""


NUM_SCHEDULERS = 4

_CDNA3 = Multiprocessor(
    max_warps=32,
    # A block of one wave takes no barrier; of the others a CU holds 16.
    max_blocks=16,
    shared_bytes=64 * 1024,
    registers=4 * 512 * 64,
    warp_size=64,
    register_unit=8 * 64,
    max_registers=512,
    shared_unit=512,
    shared_reserved=0,
    scalar_registers=800,
    cycles_per_instruction=4,
    issue_prefix="v_",
)

MULTIPROCESSORS = MappingProxyType(
    {
        "sm_80": Multiprocessor(max_warps=64, max_blocks=32, shared_bytes=164 * 1024),
        "sm_86": Multiprocessor(max_warps=48, max_blocks=16, shared_bytes=100 * 1024),
        "sm_89": Multiprocessor(max_warps=48, max_blocks=24, shared_bytes=100 * 1024),
        "sm_90": Multiprocessor(max_warps=64, max_blocks=32, shared_bytes=228 * 1024),
        "sm_100": Multiprocessor(max_warps=64, max_blocks=32, shared_bytes=228 * 1024),
        "sm_120": Multiprocessor(max_warps=48, max_blocks=24, shared_bytes=100 * 1024),
        "gfx942": _CDNA3,
        "gfx950": replace(_CDNA3, shared_bytes=160 * 1024, shared_unit=1280),
    }
)

_SCALAR_UNIT, _SCALAR_TRAP_HANDLER = 16, 16


@dataclass(frozen=True)
class Occupancy:
    """`blocks` and `warps` resident on one SM; 0 if the kernel cannot launch. `limit` is what allows no more."""

    blocks: int
    warps: int
    max_warps: int
    limit: Limit

    @property
    def fraction(self) -> float:
        return self.warps / self.max_warps


def multiprocessor(arch: str) -> Multiprocessor:
    """The facts of `arch`; ValueError lists those that are known."""
    if arch not in MULTIPROCESSORS:
        raise ValueError(f"an architecture is one of {', '.join(MULTIPROCESSORS)}; got {arch!r}")
    return MULTIPROCESSORS[arch]


def occupancy(arch: str, *, num_warps: int, registers: int, shared_bytes: int, scalar_registers: int = 0) -> Occupancy:
    """Resident blocks of a kernel: `registers` per thread; per block `num_warps` and `shared_bytes`, static and dynamic."""
    sm = multiprocessor(arch)
    blocks: dict[Limit, int] = {
        "warps": sm.max_warps // num_warps,
        "blocks": sm.max_blocks if num_warps > 1 or sm.warp_size == 32 else sm.max_warps,
        "registers": _blocks_by_registers(sm, num_warps, registers),
        "shared memory": sm.shared_bytes // max(_round_up(shared_bytes + sm.shared_reserved, sm.shared_unit), 1),
    }
    if sm.scalar_registers:
        per_wave = _round_up(scalar_registers, _SCALAR_UNIT) + _SCALAR_TRAP_HANDLER
        blocks["scalar registers"] = sm.scalar_registers // per_wave * NUM_SCHEDULERS // num_warps
    limit = min(blocks, key=lambda name: blocks[name])
    return Occupancy(blocks[limit], blocks[limit] * num_warps, sm.max_warps, limit)


def _blocks_by_registers(sm: Multiprocessor, num_warps: int, registers: int) -> int:
    if registers > sm.max_registers:
        return 0
    per_warp = _round_up(max(registers, 1) * sm.warp_size, sm.register_unit)
    # A warp's registers lie in one scheduler's quarter of the file.
    return sm.registers // NUM_SCHEDULERS // per_warp * NUM_SCHEDULERS // num_warps


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit
