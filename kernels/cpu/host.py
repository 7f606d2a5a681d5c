"""The processor of this machine."""

from __future__ import annotations

import ctypes
import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from kernels.cpu.cores import available_cores


@dataclass(frozen=True)
class Host:
    """`flags` are the CPU's features as the kernel spells them; `num_cores` is how many this process may use.

    `microcode` is its revision, empty where the system does not say.
    """

    model: str
    machine: str
    flags: frozenset[str]
    num_cores: int
    microcode: str = ""


def parse_cpuinfo(text: str) -> tuple[str, frozenset[str], str]:
    """Model name, flags and microcode of the first processor in the text of /proc/cpuinfo."""
    first = dict(
        (key.strip(), value.strip())
        for key, colon, value in (line.partition(":") for line in text.split("\n\n")[0].splitlines())
        if colon
    )
    return first.get("model name", ""), frozenset(first.get("flags", "").split()), first.get("microcode", "")


def _tiles_are_permitted() -> bool:
    """Asks Linux (5.16 or later) for the tile registers of AMX, which a process and its children may use only then."""
    arch_prctl, request_permission, tile_data = 158, 0x1023, 18
    return platform.machine() == "x86_64" and ctypes.CDLL(None).syscall(arch_prctl, request_permission, tile_data) == 0


@cache
def host() -> Host:
    """This machine's processor. Where /proc/cpuinfo is missing no flags are known, and only portable code is built.

    Features that the system keeps from this process are left out.
    """
    cpuinfo = Path("/proc/cpuinfo")
    model, flags, microcode = parse_cpuinfo(cpuinfo.read_text()) if cpuinfo.exists() else ("", frozenset[str](), "")
    tiles = frozenset(flag for flag in flags if flag.startswith("amx"))
    if tiles and not _tiles_are_permitted():
        flags -= tiles
    name = model or platform.processor() or platform.machine()
    return Host(name, platform.machine(), flags, available_cores(), microcode)
