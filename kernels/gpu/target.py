"""What a planner of launches must know of the GPU that it plans for."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal


@dataclass(frozen=True)
class Arch:
    """Facts of an instruction set. `max_shared_bytes` is what one program may ask for (opt-in limit on NVIDIA, LDS on AMD).

    Sources: CUDA C++ Programming Guide, table of compute capabilities; AMD Instinct MI300 (CDNA3) and CDNA4 ISA guides.
    """

    name: str
    backend: Literal["cuda", "hip"]
    number: int | str
    """What Triton calls it: 90, or "gfx942"."""
    warp_size: int
    max_shared_bytes: int
    has_fp8: bool
    """OCP e4m3 in the matrix units (gfx942's is another fp8, fnuz)."""
    has_wgmma: bool = False
    has_tma: bool = False
    shared_padding_bytes: int = 0
    """What the compiler may add between rows of tiles: 2,032 bytes to tiles of 163,840 is the most seen, on gfx950."""

    @property
    def tile_shared_bytes(self) -> int:
        """What a program's tiles may fill."""
        return self.max_shared_bytes - self.shared_padding_bytes


ARCHS = MappingProxyType(
    {
        arch.name: arch
        for arch in (
            Arch("sm_80", "cuda", 80, 32, 163 * 1024, has_fp8=False),
            Arch("sm_86", "cuda", 86, 32, 99 * 1024, has_fp8=False),
            Arch("sm_89", "cuda", 89, 32, 99 * 1024, has_fp8=True),
            Arch("sm_90", "cuda", 90, 32, 227 * 1024, has_fp8=True, has_wgmma=True, has_tma=True),
            Arch("sm_100", "cuda", 100, 32, 227 * 1024, has_fp8=True, has_tma=True),
            Arch("sm_120", "cuda", 120, 32, 99 * 1024, has_fp8=True, has_tma=True),
            Arch("gfx942", "hip", "gfx942", 64, 64 * 1024, has_fp8=False),
            Arch("gfx950", "hip", "gfx950", 64, 160 * 1024, has_fp8=True, shared_padding_bytes=2560),
        )
    }
)


@dataclass(frozen=True)
class Target:
    """An instruction set, and how many SMs (CUs) run it: what persistent grids and split counts depend on."""

    arch: Arch
    num_sms: int

    @classmethod
    def of(cls, arch: str, num_sms: int) -> Target:
        """The target of an architecture's name; ValueError lists those that are known."""
        if arch not in ARCHS:
            raise ValueError(f"an architecture is one of {', '.join(ARCHS)}; got {arch!r}")
        return cls(ARCHS[arch], num_sms)
