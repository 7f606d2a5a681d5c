"""What is being done and how long is left: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

T = TypeVar("T")
_SECONDS_BETWEEN_LINES = 10.0
#: A step that took less than this share of the longest was known already. It tells nothing about the next ones.
_KNOWN_SHARE = 0.05


class Reporter:
    """Reports steps of a run to one console."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False)

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)

    def track(self, items: Iterable[T], title: str, total: int, limit_s: float | None = None) -> Iterator[T]:
        """Yield `items`, showing `title`, how many of `total` are done and how long is left."""
        with self.task(title, total, limit_s) as advance:
            for item in items:
                yield item
                advance()

    @contextmanager
    def task(self, title: str, total: int, limit_s: float | None = None) -> Iterator[Callable[[], None]]:
        """Show `title` while the block runs; it calls what it is given once for each of `total` steps that is done.

        One stage is one task, so that what is left is known. `limit_s` is when it ends whatever is done.
        """
        pace = Pace(total, limit_s)
        if self.console.is_terminal:
            with Progress(*_COLUMNS, console=self.console) as progress:
                task = progress.add_task(title, total=total, pace=pace)

                def advance() -> None:
                    pace.advance()
                    progress.advance(task)

                yield advance
        else:
            lines = _Lines(self, title, pace)
            yield lines.advance
            self.say(f"{title}: done, {pace.num_done} in {pace.elapsed_s():.1f} s")


class Pace:
    """How long steps took, and so how long those that are left will take."""

    def __init__(self, total: int, limit_s: float | None = None) -> None:
        self.total, self._limit_s = total, limit_s
        self._begin_s = self._last_s = time.monotonic()
        self._steps_s: list[float] = []

    @property
    def num_done(self) -> int:
        return len(self._steps_s)

    def elapsed_s(self) -> float:
        return time.monotonic() - self._begin_s

    def advance(self) -> None:
        now_s = time.monotonic()
        self._steps_s.append(now_s - self._last_s)
        self._last_s = now_s

    def left_s(self) -> float | None:
        """Seconds, by the mean of the steps that were not known already; None before any was done."""
        bound_s = None if self._limit_s is None else max(0.0, self._limit_s - self.elapsed_s())
        if not self._steps_s:
            return bound_s
        longest_s = max(self._steps_s)
        telling = [step_s for step_s in self._steps_s if step_s >= _KNOWN_SHARE * longest_s]
        steps_s = sum(telling) / len(telling) * max(0, self.total - self.num_done)
        left_s = max(0.0, steps_s - (time.monotonic() - self._last_s))
        return left_s if bound_s is None else min(left_s, bound_s)


class _TimeLeft(ProgressColumn):
    """Rich's own column forgets steps after 30 seconds, and then knows nothing about long ones."""

    def render(self, task: Task) -> Text:
        left_s = task.fields["pace"].left_s()
        return Text("-:--:--" if left_s is None else str(timedelta(seconds=round(left_s))), style="progress.remaining")


_COLUMNS = (
    TextColumn("{task.description}"),
    BarColumn(),
    MofNCompleteColumn(),
    TimeElapsedColumn(),
    TextColumn("left"),
    _TimeLeft(),
)


class _Lines:
    """Progress as a plain line now and then."""

    def __init__(self, reporter: Reporter, title: str, pace: Pace) -> None:
        self._reporter, self._title, self._pace = reporter, title, pace
        self._said_s = 0.0

    def advance(self) -> None:
        self._pace.advance()
        left_s, elapsed_s = self._pace.left_s(), self._pace.elapsed_s()
        if elapsed_s - self._said_s >= _SECONDS_BETWEEN_LINES and self._pace.num_done < self._pace.total:
            self._said_s = elapsed_s
            self._reporter.say(f"{self._title}: {self._pace.num_done}/{self._pace.total}, about {left_s:.0f} s left")
