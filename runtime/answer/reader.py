"""What makes events of an answer's text."""

from __future__ import annotations

from typing import Protocol

from runtime.answer.events import AnswerEvent, TextDelta


class AnswerReader(Protocol):
    """Reads one answer, piece by piece; the events do not depend on where the pieces are cut, but for how they are cut too."""

    @property
    def is_reasoning(self) -> bool:
        """Whether what comes next is thought, as far as can be told."""
        ...

    @property
    def num_calls(self) -> int:
        """How many tool calls have begun."""
        ...

    @property
    def is_complete(self) -> bool:
        """Whether the answer has all that it may have: the model need not go on."""
        ...

    def push(self, text: str) -> list[AnswerEvent]:
        """The events that became certain with `text`."""
        ...

    def flush(self) -> list[AnswerEvent]:
        """Those that are left when no more text comes."""
        ...


class PlainReader:
    """All is text."""

    is_reasoning = False
    num_calls = 0
    is_complete = False

    def push(self, text: str) -> list[AnswerEvent]:
        return [TextDelta(text)] if text else []

    def flush(self) -> list[AnswerEvent]:
        return []
