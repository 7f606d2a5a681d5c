"""The instruction sets that kernels are built for. Explicit levels, not -march=native: a build can be repeated elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

from kernels.cpu.host import Host

_V3 = ("avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave")
_V4 = (*_V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")


@dataclass(frozen=True)
class Isa:
    """An instruction set.

    `cpu_flags` are what a machine must have to run its code, spelled as in /proc/cpuinfo; `compiler_flags` are what
    g++ and clang++ take. A vector of 16 floats fills `registers_per_vector` of `num_registers` vector registers.
    """

    name: str
    cpu_flags: tuple[str, ...]
    compiler_flags: tuple[str, ...]
    num_registers: int
    registers_per_vector: int

    @property
    def has_tiles(self) -> bool:
        """Whether code may use matrix tiles (AMX)."""
        return "-mamx-tile" in self.compiler_flags

    def missing(self, host: Host) -> tuple[str, ...]:
        """The flags that `host` lacks."""
        return tuple(flag for flag in self.cpu_flags if flag not in host.flags)


_TILES = ("amx_tile", "amx_int8", "amx_bf16")

#: From the most to the least capable.
ISAS = (
    Isa(
        "x86-64-v4-amx",
        (*_V4, "avx512_vnni", "avx512_bf16", *_TILES),
        ("-march=x86-64-v4", "-mavx512vnni", "-mavx512bf16", "-mamx-tile", "-mamx-int8", "-mamx-bf16"),
        32,
        1,
    ),
    Isa("x86-64-v4-vnni", (*_V4, "avx512_vnni"), ("-march=x86-64-v4", "-mavx512vnni"), 32, 1),
    Isa("x86-64-v4", _V4, ("-march=x86-64-v4",), 32, 1),
    Isa("x86-64-v3", _V3, ("-march=x86-64-v3",), 16, 2),
    Isa("portable", (), (), 16, 4),
)


def isa(name: str) -> Isa:
    """The instruction set called `name`; ValueError lists those there are."""
    for candidate in ISAS:
        if candidate.name == name:
            return candidate
    raise ValueError(f"an instruction set is one of {', '.join(i.name for i in ISAS)}; got {name!r}")


def best_isa(host: Host) -> Isa:
    """The most capable instruction set that `host` runs."""
    return next(candidate for candidate in ISAS if not candidate.missing(host))
