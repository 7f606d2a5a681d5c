"""Threads for work that grows with a request's size, so that the event loop is there for everybody else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from runtime.heap import return_freed_memory

T = TypeVar("T")

_LONG_BYTES = 64 * 1024
_NUM_QUICK = 2
_NUM_LONG = 1


class Workers:
    """Two lanes: what is about more than 64 KiB waits for others of its kind, and never keeps ordinary requests waiting."""

    def __init__(self) -> None:
        self._quick = ThreadPoolExecutor(_NUM_QUICK, "quick")
        self._long = ThreadPoolExecutor(_NUM_LONG, "long")

    async def run(self, num_bytes: int, work: Callable[[], T]) -> T:
        """`work`'s result or exception. If it is cancelled while it waits for its turn, it never runs."""
        loop = asyncio.get_running_loop()
        if num_bytes <= _LONG_BYTES:
            return await loop.run_in_executor(self._quick, work)
        return await loop.run_in_executor(self._long, _tidily, work)

    def close(self) -> None:
        """What has not begun never does."""
        for lane in (self._quick, self._long):
            lane.shutdown(wait=False, cancel_futures=True)


def _tidily(work: Callable[[], T]) -> T:
    try:
        return work()
    finally:
        return_freed_memory()
