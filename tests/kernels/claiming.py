"""claiming.cpp, compiled and called: the claims of a call's work by themselves, and slow threads for whole programs."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import numpy as np

from kernels.cpu.build import find_compiler
from kernels.cpu.library import CompiledProgram
from kernels.registry import ROOT
from kernels.spec import Array

_SOURCE = Path(__file__).with_suffix(".cpp")


class Claiming:
    """The compiled functions, by name."""

    def __init__(self, folder: Path) -> None:
        command = [find_compiler().command, "-std=c++17", "-O1", "-shared", "-fPIC", "-pthread", "-I", str(ROOT / "cpu")]
        subprocess.run([*command, "-o", str(folder / "claiming.so"), str(_SOURCE)], check=True)
        self._library = ctypes.CDLL(str(folder / "claiming.so"))
        for create in ("claims_create", "work_create"):
            getattr(self._library, create).restype = ctypes.c_void_p

    def call(self, name: str, *arguments: int) -> int:
        """Calls a function whose arguments are integers of 64 bits, or addresses."""
        result: int | None = getattr(self._library, name)(*map(ctypes.c_int64, arguments))
        return result or 0

    def entry(self, name: str) -> int:
        """The address of an entry point."""
        address = ctypes.cast(getattr(self._library, name), ctypes.c_void_p).value
        assert address is not None
        return address

    def counting(self, name: str, program: CompiledProgram, calls: list[tuple[int, int]]) -> list[Array]:
        """From now on the calls of `program` are to the entry point `name`, each of so many items in so many at once; how often
        each item was done."""
        times = [np.zeros(count, np.int64) for count, _ in calls]
        self._alive = arguments = np.array([(t.ctypes.data, *call) for t, call in zip(times, calls, strict=True)], np.int64)
        program._instructions[:, 0] = self.entry(name)
        program._instructions[:, 1] = arguments.ctypes.data + np.arange(len(calls)) * arguments.strides[0]
        return times

    def slow_down(self, program: CompiledProgram) -> Array:
        """From now on threads come late to the calls of `program`, as long as the result is alive."""
        instructions = program._instructions
        wrapped = instructions.copy()
        instructions[:, 0] = self.entry("slowed")
        instructions[:, 1] = wrapped.ctypes.data + np.arange(len(wrapped)) * wrapped.strides[0]
        return wrapped


class Turn:
    """The threads of a team in one call, each of which claims when it is told to."""

    def __init__(self, claiming: Claiming, claims: int, world: int, turn: int, count: int, grain: int) -> None:
        self._claiming = claiming
        self._works = [claiming.call("work_create", claims, rank, world, turn) for rank in range(world)]
        self.count, self.grain = count, grain

    def __del__(self) -> None:
        for work in self._works:
            self._claiming.call("work_destroy", work)

    def next(self, rank: int) -> range:
        """What the thread takes."""
        taken = np.zeros(2, np.int64)
        self._claiming.call("work_next", self._works[rank], self.count, self.grain, taken.ctypes.data)
        return range(*taken.tolist())

    def is_over(self) -> bool:
        """Whether what the threads have done is all that there is."""
        progress = np.zeros((len(self._works), 2), np.int64)
        for work, row in zip(self._works, progress, strict=True):
            self._claiming.call("work_progress", work, row.ctypes.data)
        return bool(progress[:, 0].sum() == progress[:, 1].max())
