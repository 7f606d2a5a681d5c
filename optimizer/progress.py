"""What is being done and how long is left: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

T = TypeVar("T")
_SECONDS_BETWEEN_LINES = 10.0


class Reporter:
    """Reports steps of a run to one console."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False)

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)

    def track(self, items: Iterable[T], title: str, total: int) -> Iterator[T]:
        """Yield `items`, showing `title`, how many of `total` are done and how long is left."""
        with self.task(title, total) as advance:
            for item in items:
                yield item
                advance()

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Callable[[], None]]:
        """Show `title` while the block runs; it calls what it is given once for each of `total` steps that is done."""
        if self.console.is_terminal:
            with Progress(*_COLUMNS, console=self.console) as progress:
                task = progress.add_task(title, total=total)
                yield lambda: progress.advance(task)
        else:
            lines = _Lines(self, title, total)
            yield lines.advance
            self.say(f"{title}: done, {lines.num_done} in {lines.elapsed_s():.1f} s")


_COLUMNS = (
    TextColumn("{task.description}"),
    BarColumn(),
    MofNCompleteColumn(),
    TimeElapsedColumn(),
    TextColumn("left"),
    TimeRemainingColumn(),
)


class _Lines:
    """Progress as a plain line now and then."""

    def __init__(self, reporter: Reporter, title: str, total: int) -> None:
        self._reporter, self._title, self._total = reporter, title, total
        self._begin = self._last = time.monotonic()
        self.num_done = 0

    def elapsed_s(self) -> float:
        return time.monotonic() - self._begin

    def advance(self) -> None:
        self.num_done += 1
        now = time.monotonic()
        if now - self._last >= _SECONDS_BETWEEN_LINES and self.num_done < self._total:
            self._last = now
            left_s = self.elapsed_s() / self.num_done * (self._total - self.num_done)
            self._reporter.say(f"{self._title}: {self.num_done}/{self._total}, about {left_s:.0f} s left")
