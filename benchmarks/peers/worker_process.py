"""The parent's end of a worker: start, ask, pause, watch memory, end. Only the worker whose turn it is runs."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

WORKER = Path(__file__).with_name("worker.py")
ADAPTERS = Path(__file__).with_name("adapters")
_KIB = 1024


class WorkerError(RuntimeError):
    """An engine did not do what it was asked; the message says what it said."""


class WorkerProcess:
    """One engine's worker in a process group of its own, stopped (SIGSTOP) whenever it is not asked anything."""

    def __init__(self, python: Path, adapter: Path, log: Path, environment: Mapping[str, str] | None = None) -> None:
        self._name, self._log = adapter.stem, log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as stderr:
            # -P: the folder of the script has files named like the packages that they import.
            self._process = subprocess.Popen(
                [python, "-P", WORKER, adapter],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
                bufsize=0,
            )
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._stdout, selectors.EVENT_READ)
        self._received = b""

    def ask(self, command: str, timeout_s: float = 600.0, **arguments: Any) -> dict[str, Any]:
        """The result of one command. WorkerError if the engine fails, ends, or takes longer than `timeout_s`."""
        self._signal(signal.SIGCONT)
        try:
            self._stdin.write(json.dumps({"command": command, **arguments}).encode() + b"\n")
            answer = json.loads(self._line(command, time.monotonic() + timeout_s))
        except BrokenPipeError:
            raise WorkerError(self._ended(command)) from None
        finally:
            self._signal(signal.SIGSTOP)
        if "error" in answer:
            raise WorkerError(f"{self._name} failed to {command}: {answer['error']} (log: {self._log})")
        result: dict[str, Any] = answer["result"]
        return result

    def memory_bytes(self) -> dict[str, int]:
        """What the worker and its children have resident, by kind; `resident` is all of it."""
        sums = {"resident": 0, "anonymous": 0, "file": 0, "shared": 0}
        fields = dict(zip(("VmRSS", "RssAnon", "RssFile", "RssShmem"), sums, strict=True))
        for process in _members(self.pid):
            try:
                status = (process / "status").read_text()
            except OSError:
                continue
            for line in status.splitlines():
                name, _, value = line.partition(":")
                if name in fields:
                    sums[fields[name]] += int(value.split()[0]) * _KIB
        return sums

    def close(self) -> None:
        """End the process group; a stopped one is killed all the same."""
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._selector.close()
        self._stdin.close()
        self._stdout.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def _stdin(self) -> Any:
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def _stdout(self) -> Any:
        assert self._process.stdout is not None
        return self._process.stdout

    def _line(self, command: str, deadline: float) -> bytes:
        while b"\n" not in self._received:
            if not self._selector.select(max(deadline - time.monotonic(), 0)):
                raise WorkerError(f"{self._name} did not {command} in time (log: {self._log})")
            received = os.read(self._stdout.fileno(), 1 << 16)
            if not received:
                raise WorkerError(self._ended(command))
            self._received += received
        line, _, self._received = self._received.partition(b"\n")
        return line

    def _ended(self, command: str) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        last = f"; its last line: {lines[-1][:300]}" if lines else ""
        return f"{self._name} ended while asked to {command} (exit status {self._process.wait()}{last}; log: {self._log})"

    def _signal(self, number: int) -> None:
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            return


def _members(group: int) -> Sequence[Path]:
    """/proc folders of the processes of a process group."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            # The command's name, in brackets, may hold spaces; state, parent and group follow it.
            stat = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(stat[2]) == group:
            found.append(folder)
    return found
