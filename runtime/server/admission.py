"""Who may join the queue, how long it is, and when to come back. Pure: times are arguments, in seconds of one clock."""

from __future__ import annotations

import math
from typing import Literal

from artifacts.errors import UserError
from runtime.engine_core import EngineStats

_MEMORY_S = 60.0
_MAX_RETRY_AFTER_S = 3600

OverloadReason = Literal["queue_full", "queue_share", "queue_too_slow", "queue_timeout", "bodies"]


class Overloaded(RuntimeError):
    """Too much is asked of the server at once; `retry_after_s` is when the same request has a chance, by what was measured."""

    def __init__(self, message: str, reason: OverloadReason, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_after_s = min(_MAX_RETRY_AFTER_S, max(1, math.ceil(retry_after_s or 0)))


class Admission:
    """Bounds the queue: `max_queue` sequences beyond those that there are seats for, and `max_wait_s` seconds.

    A queue moves when sequences end. Their number while others waited, over the seconds in which others waited, is its rate;
    what lies further back than about a minute counts less and less. Until as many have ended as there are seats the rate is
    unknown, and refuses nobody: those that began together end together, and the first alone would make it far too low.
    """

    def __init__(self, num_seats: int, max_queue: int, max_wait_s: float) -> None:
        if max_queue < 0 or not max_wait_s > 0:
            raise UserError(f"max_queue must be at least 0 and max_wait above 0, got {max_queue} and {max_wait_s}")
        self.num_seats = num_seats
        self.max_queue = max_queue
        self.max_wait_s = max_wait_s
        self._seen_s: float | None = None
        self._num_waiting = 0
        self._num_ended = 0
        self._num_seen = 0
        self._recent_ended = 0.0
        self._recent_s = 0.0

    def observe(self, now_s: float, stats: EngineStats) -> None:
        """Learn from what the engine has counted by `now_s`."""
        kept = 1.0 if self._seen_s is None else math.exp(-max(0.0, now_s - self._seen_s) / _MEMORY_S)
        self._recent_s *= kept
        self._recent_ended *= kept
        if self._num_waiting:
            self._recent_s += _MEMORY_S * (1 - kept)
            self._num_seen += stats.num_ended - self._num_ended
            self._recent_ended += stats.num_ended - self._num_ended
        self._seen_s = now_s
        self._num_waiting = stats.num_waiting
        self._num_ended = stats.num_ended

    def wait_s(self, num_ahead: int) -> float | None:
        """Seconds until one has a seat for whom that many must get theirs first; None while the rate is unknown."""
        if self._num_seen < self.num_seats or not self._recent_ended or not self._recent_s:
            return None
        return (num_ahead + 1) * self._recent_s / self._recent_ended

    def check(self, num_new: int, stats: EngineStats, num_own: int | None = None) -> None:
        """Raises Overloaded if `num_new` sequences of one request must not join the queue now.

        `num_own` of those that wait are its client's, None if clients have no names. One client may take no more places than
        it leaves free (a dynamic threshold: Choudhury and Hahne, 1998), so that whoever floods the queue leaves room in it.
        """
        num_ahead = stats.num_waiting - max(0, self.num_seats - stats.num_running)
        num_excess = num_ahead + num_new - self.max_queue
        if num_excess > 0:
            raise self.full(num_excess, stats)
        if num_own is not None and num_own + num_new > (num_free := self.max_queue - num_ahead):
            raise Overloaded(
                f"{num_own} of the sequences that wait are of this key, which may add no more than it leaves free: {num_free} "
                "places; come back later",
                "queue_share",
                self._retry_after_s(num_own + num_new - num_free),
            )
        wait_s = self.wait_s(num_ahead) if num_ahead >= 0 and stats.num_waiting else None
        if wait_s is not None and wait_s > self.max_wait_s:
            raise Overloaded(
                f"the queue takes about {wait_s:.0f} s now, more than the {self.max_wait_s:g} s that a request may wait here; "
                "come back later",
                "queue_too_slow",
                wait_s - self.max_wait_s,
            )

    def full(self, num_excess: int, stats: EngineStats) -> Overloaded:
        """The refusal of a request for which the queue is `num_excess` sequences too long."""
        message = f"the queue is full: {stats.num_waiting} sequences are waiting, {self.max_queue} may; come back later"
        return Overloaded(message, "queue_full", self._retry_after_s(num_excess))

    def timed_out(self, stats: EngineStats) -> Overloaded:
        """The refusal of a request that has waited for `max_wait_s`."""
        message = f"the request has waited for {self.max_wait_s:g} s, the longest that one may wait here; come back later"
        return Overloaded(message, "queue_timeout", self._retry_after_s(stats.num_waiting))

    def _retry_after_s(self, num_before: int) -> float:
        """Seconds until so many have a seat; where none has ended yet, about as long again as others have waited."""
        wait_s = self.wait_s(max(0, num_before - 1))
        return self._recent_s if wait_s is None else wait_s
