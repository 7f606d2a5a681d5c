"""What a server's engines count together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from runtime.engine_core import EngineStats

#: of `EngineStats`: what only ever grows
_COUNTERS = ("num_preemptions", "num_cached_tokens", "num_prompt_tokens", "num_generated_tokens", "num_ended")
_SEQUENCES = ("num_running", "num_waiting")


class EngineCounts:
    """Of the engines that run and, so that no counter goes back, of those that have ended. Lives in the event loop."""

    def __init__(self) -> None:
        self._running: list[Callable[[], EngineStats]] = []
        self._ended: EngineStats | None = None

    def __len__(self) -> int:
        """Engines that run."""
        return len(self._running)

    def put_last(self, engine_stats: Callable[[], EngineStats]) -> None:
        """New requests go to that engine from now on, be it new or not."""
        self._running = [other for other in self._running if other != engine_stats] + [engine_stats]

    def remove(self, engine_stats: Callable[[], EngineStats]) -> None:
        """That engine has ended. What has ended already is left as it was."""
        if engine_stats in self._running:
            self._running.remove(engine_stats)
            ended = engine_stats()
            self._ended = ended if self._ended is None else _with_counters(self._ended, [self._ended, ended])

    def total(self) -> EngineStats | None:
        """Sequences and counters of all; the seats and the KV cache of the one that new requests go to. None without any."""
        if not self._running:
            return None
        running = [engine_stats() for engine_stats in self._running]
        every = [*running, *([self._ended] if self._ended else [])]
        total = _with_counters(running[-1], every)
        return replace(total, **{name: sum(getattr(stats, name) for stats in running) for name in _SEQUENCES})


def _with_counters(one: EngineStats, every: list[EngineStats]) -> EngineStats:
    return replace(one, **{name: sum(getattr(stats, name) for stats in every) for name in _COUNTERS})
