"""How much of a machine others take while this process measures."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

_TASKS = Path("/proc/self/task")
_STAT = Path("/proc/stat")
#: in a line of /proc/stat: where the time of a core is that the hypervisor gave to other machines
_STEAL = 8


class Disturbance:
    """From when it is made on: how much of their time the worst off of this process's threads had to wait for others.

    A thread that stands ready and waits for a core (Linux: schedstat) is one that others took it from; likewise a core whose
    time the hypervisor took (steal). One of them is enough: a step is as slow as its slowest thread. 0 where the system counts
    neither.
    """

    def __init__(self) -> None:
        self._begin_ns, self._waited = time.monotonic_ns(), _waited_ns()

    def share(self) -> float:
        elapsed = max(1, time.monotonic_ns() - self._begin_ns)
        return max((waited - self._waited.get(who, 0) for who, waited in _waited_ns().items()), default=0) / elapsed


def _waited_ns() -> dict[str, int]:
    """Nanoseconds so far: of each thread ready and waiting, of each core given to other machines."""
    waited: dict[str, int] = {}
    with suppress(OSError, ValueError, IndexError):
        for task in _TASKS.iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
                waited[task.name] = int((task / "schedstat").read_text().split()[1])
    with suppress(OSError, ValueError, IndexError):
        for name, *ticks in (line.split() for line in _STAT.read_text().splitlines()):
            if name.startswith("cpu") and name != "cpu":
                waited[name] = int(ticks[_STEAL - 1]) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    return waited
