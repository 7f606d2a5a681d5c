"""Text that comes in pieces, read from the front by code that waits where it needs more. Pure.

A step is a generator: it yields where it cannot go on without more text, and returns what it found. What it finds does not
depend on where the pieces are cut.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import TypeVar

T = TypeVar("T")
Steps = Generator[None, None, T]

SPACE = " \t\r\n"


class Cursor:
    """`position` is where reading goes on; it may be set back to where it was since the last `forget`."""

    def __init__(self) -> None:
        self.position = 0
        self.has_ended = False
        self._text = ""

    def feed(self, text: str) -> None:
        self._text += text

    def end(self) -> None:
        """No more text comes."""
        self.has_ended = True

    @property
    def rest(self) -> str:
        """What has come and is not read yet."""
        return self._text[self.position :]

    def forget(self) -> None:
        """Drop what is read: a long text does not stay."""
        self._text, self.position = self.rest, 0

    def take(self, count: int) -> str:
        """The next `count` characters, which have come."""
        self.position += count
        return self._text[self.position - count : self.position]

    def next(self) -> Steps[str]:
        """The next character, not read yet; empty at the end."""
        while self.position == len(self._text) and not self.has_ended:
            yield
        return self._text[self.position : self.position + 1]

    def skips(self, word: str) -> Steps[bool]:
        """Whether the text goes on with `word`, which is then read."""
        while True:
            rest = self._text[self.position : self.position + len(word)]
            if rest == word:
                self.position += len(word)
                return True
            if self.has_ended or not word.startswith(rest):
                return False
            yield

    def skips_any(self, words: Iterable[str]) -> Steps[str | None]:
        """Which of `words` the text goes on with, the first that does; it is then read."""
        for word in words:
            if (yield from self.skips(word)):
                return word
        return None

    def skip_space(self) -> Steps[None]:
        while (character := (yield from self.next())) and character in SPACE:
            self.position += 1

    def until(self, words: Iterable[str], longest: int) -> Steps[str | None]:
        """What stands before the first of `words`, of at most `longest` characters; None if they do not come so soon."""
        words = tuple(words)
        while True:
            found = [at for at in (self.rest.find(word, 0, longest + len(word)) for word in words) if at >= 0]
            # A longer word that began earlier may still be open.
            num_open = open_end(self.rest, words)
            if found and min(found) < len(self.rest) - num_open:
                return self.take(min(found))
            if self.has_ended or len(self.rest) - num_open > longest:
                return self.take(min(found)) if found else None
            yield


def open_end(text: str, words: Iterable[str]) -> int:
    """Length of the longest end of `text` that one of `words` begins with, and is not whole."""
    return max((_overlap(text, word) for word in words), default=0)


def _overlap(text: str, word: str) -> int:
    return next(n for n in range(min(len(word) - 1, len(text)), -1, -1) if text.endswith(word[:n]))
