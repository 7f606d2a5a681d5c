"""A built kernel library, loaded: runs single calls and whole programs on a team of threads."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kernels import registry
from kernels.cpu.abi import ABI_VERSION, Bound, bind
from kernels.cpu.host import Host, host
from kernels.refusal import Refusal
from kernels.spec import Arguments, Call, Program


class LibraryRefused(Refusal):
    """A kernel library does not suit this machine or this version of the code."""


def variants_of(symbol: str) -> str:
    """The table of pointers to the variants of an entry point, in a library that has several."""
    return f"{symbol}_variants"


class Team:
    """A persistent team of threads; the calling thread is one of them, so `num_threads` 1 starts none."""

    def __init__(self, library: ctypes.CDLL, num_threads: int) -> None:
        if num_threads < 1:
            raise ValueError(f"num_threads must be at least 1, got {num_threads}")
        self._destroy = library.cf_team_destroy
        self.handle = library.cf_team_create(num_threads)
        if not self.handle:
            raise Refusal(f"could not start {num_threads} threads; lower num_threads")

    def __del__(self) -> None:
        if getattr(self, "handle", None):
            self._destroy(self.handle)


class CompiledProgram:
    """A program bound to its buffers: `run()` is one foreign call, which releases the GIL."""

    def __init__(
        self,
        library: ctypes.CDLL,
        team: Team,
        bound: list[tuple[str, Bound]],
        program: Program,
        variants: Mapping[str, int],
    ) -> None:
        self._run = library.cf_run
        self._profile = library.cf_profile
        self._team = team
        self._alive = bound
        self._counters: Mapping[str, NDArray[np.int64]] = program.counters
        self._limits = _limits(program, [b for _, b in bound])
        entries = (_entry(library, symbol, variants) for symbol, _ in bound)
        self._instructions = np.array(
            [(entry, b.struct.ctypes.data) for entry, (_, b) in zip(entries, bound, strict=True)], np.int64
        ).reshape(-1, 2)
        self._arguments = (team.handle, self._instructions.ctypes.data, len(bound))

    def run(self) -> None:
        """Runs every call in order with the counters as they are now; ValueError if one exceeds its buffers."""
        self._check_counters()
        self._run(*self._arguments)

    def run_part(self, begin: int, end: int) -> None:
        """As `run`, of the calls [begin, end) only: whoever runs all of them part by part has run the program."""
        self._check_counters()
        team, instructions, _ = self._arguments
        self._run(team, instructions + begin * self._instructions.strides[0], end - begin)

    def profile_ms(self) -> NDArray[np.float64]:
        """As `run`, and returns the milliseconds that each call took, waiting for its last thread included."""
        self._check_counters()
        elapsed_ns = np.zeros(len(self._alive), np.int64)
        self._profile(*self._arguments, elapsed_ns.ctypes.data)
        return elapsed_ns / 1e6

    def _check_counters(self) -> None:
        for name, limit in self._limits.items():
            if not 0 <= self._counters[name][0] <= limit:
                raise ValueError(f"counter {name} must lie in 0..{limit}, its buffers' extent, got {self._counters[name][0]}")


def _entry(library: ctypes.CDLL, symbol: str, variants: Mapping[str, int]) -> int | None:
    """The address of `symbol`, of its op's variant where the library has several: op -> index, 0 for an op left out."""
    try:
        table = ctypes.addressof(ctypes.c_void_p.in_dll(library, variants_of(symbol)))
    except ValueError:
        return ctypes.cast(getattr(library, symbol), ctypes.c_void_p).value
    index = variants.get(registry.spec(symbol).op, 0)
    return ctypes.c_void_p.from_address(table + index * ctypes.sizeof(ctypes.c_void_p)).value


def _limits(program: Program, bound: list[Bound]) -> dict[str, int]:
    limits: dict[str, int] = {}
    for call, b in zip(program.calls, bound, strict=True):
        for axis, counter in call.counters.items():
            limits[counter] = min(b.extents[axis], limits.get(counter, b.extents[axis]))
    return limits


class Library:
    """The shared library at `path`.

    LibraryRefused if it is not one, was built for another version of the argument structs, or uses CPU features that
    this machine lacks.
    """

    def __init__(self, path: Path, machine: Host | None = None) -> None:
        try:
            self._library = ctypes.CDLL(str(Path(path).resolve()))
            self._library.cf_cpu_flags.restype = ctypes.c_char_p
            self._library.cf_abi_version.restype = ctypes.c_int64
            self._library.cf_team_create.argtypes = [ctypes.c_int32]
            self._library.cf_team_create.restype = ctypes.c_void_p
            self._library.cf_team_destroy.argtypes = [ctypes.c_void_p]
            self._library.cf_team_destroy.restype = None
            self._library.cf_run.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
            self._library.cf_run.restype = None
            self._library.cf_profile.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p]
            self._library.cf_profile.restype = None
        except (OSError, AttributeError) as error:
            raise LibraryRefused(f"{path} is not a kernel library: {error}") from error
        version = self._library.cf_abi_version()
        if version != ABI_VERSION:
            raise LibraryRefused(f"{path} has ABI version {version}, this code needs {ABI_VERSION}; build it again")
        self.cpu_flags: tuple[str, ...] = tuple(self._library.cf_cpu_flags().decode().split())
        if missing := [flag for flag in self.cpu_flags if flag not in (machine or host()).flags]:
            raise LibraryRefused(f"{path} needs CPU features that this machine lacks: {', '.join(missing)}; build it here")
        self._teams: dict[int, Team] = {}

    def compile(self, program: Program, num_threads: int) -> CompiledProgram:
        """`program` bound to its buffers, to run on a team of `num_threads`. ValueError as `kernels.cpu.abi.bind`."""
        (compiled,) = self.compile_each(program, num_threads, [{}])
        return compiled

    def compile_each(self, program: Program, num_threads: int, choices: Iterable[Mapping[str, int]]) -> list[CompiledProgram]:
        """The same for each of `choices` among the variants that this library has of ops, op -> index; buffers are the same."""
        bound = []
        for call in program.calls:
            counts = {axis: program.counters[counter] for axis, counter in call.counters.items()}
            bound.append((call.symbol, bind(registry.spec(call.symbol), call.arguments, counts)))
        team = self._team(num_threads)
        return [CompiledProgram(self._library, team, bound, program, choice) for choice in choices]

    def call(self, symbol: str, arguments: Arguments, num_threads: int = 1) -> None:
        """Runs one entry point, its variable axes as long as the arrays are."""
        spec = registry.spec(symbol)
        sizes = spec.sizes(arguments)
        counters = {axis: np.array([sizes.get(axis, 0)], np.int64) for axis in spec.variable}
        call = Call(symbol, arguments, {axis: axis for axis in spec.variable})
        self.compile(Program((call,), counters), num_threads).run()

    def _team(self, num_threads: int) -> Team:
        if num_threads not in self._teams:
            self._teams[num_threads] = Team(self._library, num_threads)
        return self._teams[num_threads]
