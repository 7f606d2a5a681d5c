"""How much of a machine others take while this process measures."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

_TASKS = Path("/proc/self/task")
_STAT = Path("/proc/stat")
#: of the `cpu` line of /proc/stat: where the time is that the hypervisor gave to other machines
_STEAL = 8


class Disturbance:
    """From when it is made: the share of the time of `num_threads` threads that others had the cores which they asked for.

    Counted are nanoseconds that this process's threads stood ready and waited for a core (Linux: schedstat), and time that the
    hypervisor took (steal). Where the system counts neither the share is 0: unknown.
    """

    def __init__(self, num_threads: int) -> None:
        self._num_threads = num_threads
        self._begin = self._counts()

    def share(self) -> float:
        (wall, waited, stolen), (wall_now, waited_now, stolen_now) = self._begin, self._counts()
        elapsed = max(1, wall_now - wall)
        cores = os.cpu_count() or 1
        return (waited_now - waited) / (elapsed * self._num_threads) + (stolen_now - stolen) / (elapsed * cores)

    @staticmethod
    def _counts() -> tuple[int, int, int]:
        waited = stolen = 0
        with suppress(OSError, ValueError, IndexError):
            for task in _TASKS.iterdir():
                with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
                    waited += int((task / "schedstat").read_text().split()[1])
        with suppress(OSError, ValueError, IndexError):
            ticks = int(_STAT.read_text().split("\n", 1)[0].split()[_STEAL])
            stolen = ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK")
        return time.monotonic_ns(), waited, stolen
