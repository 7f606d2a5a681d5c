"""What is being done and how long is left: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
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
        if self.console.is_terminal:
            yield from self._bar(items, title, total)
        else:
            yield from self._lines(items, title, total)

    def _bar(self, items: Iterable[T], title: str, total: int) -> Iterator[T]:
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("left"), TimeRemainingColumn(),
        )  # fmt: skip
        with Progress(*columns, console=self.console) as progress:
            task = progress.add_task(title, total=total)
            for item in items:
                yield item
                progress.advance(task)

    def _lines(self, items: Iterable[T], title: str, total: int) -> Iterator[T]:
        begin = last = time.monotonic()
        done = 0
        for item in items:
            yield item
            done += 1
            now = time.monotonic()
            if now - last >= _SECONDS_BETWEEN_LINES and done < total:
                last = now
                left = (now - begin) / done * (total - done)
                self.say(f"{title}: {done}/{total}, about {left:.0f} s left")
        self.say(f"{title}: done, {done} in {time.monotonic() - begin:.1f} s")
