"""Runs a program that has not been reviewed: no network, none of the host's files, bounded time, memory, processes and output.

A process of its own in new mount, process, network and IPC namespaces (as an unprivileged user also a user namespace). Its root
is an empty tmpfs with the interpreter and the C library mounted read-only and a small /tmp; it has no capabilities and cannot
gain any, no open files but its output, an empty environment, and resource limits (`sandbox_launcher.py` does all that, in
order). Where the system does not allow it, nothing is run: `SandboxUnavailable`.

What it does not stop: faults of the kernel itself, and the use of `max_processes` x `memory_bytes` of memory at once.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector
from tempfile import TemporaryDirectory
from typing import Literal

from artifacts.errors import UserError

Ending = Literal["exited", "timed out", "too much output"]

_LAUNCHER = Path(__file__).with_name("sandbox_launcher.py")
_GRACE_S = 5.0


class SandboxUnavailable(UserError):
    """This system cannot isolate a program, so none is run; the message says what was refused and what would allow it."""


@dataclass(frozen=True)
class SandboxLimits:
    """`time_s` is wall-clock, and CPU time of each process; `memory_bytes` is address space of each process."""

    time_s: float = 10.0
    memory_bytes: int = 512 << 20
    max_processes: int = 4
    file_bytes: int = 1 << 20
    scratch_bytes: int = 16 << 20
    output_bytes: int = 64 << 10


@dataclass(frozen=True)
class SandboxResult:
    """How a program ended; `exit_code` is -N for a program that signal N ended. `output` is stdout and stderr, cut."""

    ending: Ending
    exit_code: int
    output: bytes


def run_sandboxed(program: str, limits: SandboxLimits = SandboxLimits()) -> SandboxResult:
    """Run Python source with this interpreter (standard library only) until it ends or breaks a limit.

    Raises SandboxUnavailable where the system refuses the isolation.
    """
    if sys.platform != "linux":
        raise SandboxUnavailable(f"programs are isolated with Linux namespaces, and this is {sys.platform}; remove the set")
    with TemporaryDirectory(prefix="sandbox-") as root:
        return _run(program, limits, root)


def _run(program: str, limits: SandboxLimits, root: str) -> SandboxResult:
    status_read, status_write = os.pipe()
    interpreter = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    settings = asdict(limits) | {"status_fd": status_write, "root": root}
    with os.fdopen(status_read, "rb") as status:
        process = subprocess.Popen(
            [interpreter, "-I", "-S", "-B", str(_LAUNCHER), json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(status_write,),
            env={},
            cwd="/",
        )
        os.close(status_write)
        assert process.stdin is not None and process.stdout is not None
        try:
            with suppress(BrokenPipeError):  # it was refused before it read the program; its status says why
                process.stdin.write(program.encode())
                process.stdin.close()
            if refusal := status.read().decode():
                raise SandboxUnavailable(
                    f"running generated code needs Linux namespaces, and this system refuses them ({refusal}); allow "
                    "unprivileged user namespaces, run as root with CAP_SYS_ADMIN, or remove the set of format humaneval"
                )
            output, ending = _output(process.stdout.fileno(), limits)
            if ending != "exited":
                process.terminate()  # the launcher ends the program, and with it everything that it started
            try:
                exit_code = process.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                ending, exit_code = "timed out", -signal.SIGKILL
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
    return SandboxResult(ending, exit_code if exit_code < 128 else 128 - exit_code, output)


def _output(fd: int, limits: SandboxLimits) -> tuple[bytes, Ending]:
    """What comes out of `fd` until it is closed, time is up or there is too much of it."""
    deadline, parts, size = time.monotonic() + limits.time_s, list[bytes](), 0
    with DefaultSelector() as selector:
        selector.register(fd, EVENT_READ)
        while selector.select(max(0.0, deadline - time.monotonic())):
            part = os.read(fd, 1 << 16)
            if not part:
                return b"".join(parts), "exited"
            parts.append(part)
            size += len(part)
            if size > limits.output_bytes:
                return b"".join(parts)[: limits.output_bytes], "too much output"
    return b"".join(parts), "timed out"
