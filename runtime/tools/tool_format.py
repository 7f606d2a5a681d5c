"""What a family's way of writing tool calls is to the rest: recognized, read, and constrained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from runtime.answer.cursor import Cursor, Steps
from runtime.tools.events_out import EventsOut
from runtime.tools.functions import Functions

WrittenCall = tuple[str, str]
"""A function's name, and the text of a JSON object, its arguments."""


class ToolFormat(Protocol):
    """One family's way. An instance has no state."""

    @property
    def name(self) -> str:
        """What manifests and options call it."""
        ...

    @property
    def markers(self) -> tuple[str, ...]:
        """Texts that begin or divide calls, and that a tokenizer may have as special tokens."""
        ...

    def writes(self, template: str) -> bool:
        """Whether the chat template `template` shows calls in this way."""
        ...

    def new_id(self) -> str:
        """What a call is answered under."""
        ...

    def written(self, calls: Sequence[WrittenCall]) -> str:
        """The text of an answer with `calls`, names and texts of arguments, as the family's templates have it."""
        ...

    def read(self, cursor: Cursor, out: EventsOut, functions: Functions) -> Steps[None]:
        """Makes events of an answer. What is no call, or not yet one where it breaks off, is text."""
        ...

    def lark(self, functions: Functions, special: Mapping[str, int]) -> str:
        """Rules of a grammar whose `calls` is at least one call of `functions`, with arguments that their schemas allow.

        `special` are the ids of special tokens by their texts. The dialect is `runtime.grammar`'s.
        """
        ...
