"""What an answer consists of, in the order in which it comes: the one language between generation and the APIs.

Readers (`runtime/answer/`) make events of a model's text; each API words them in its own way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from runtime.request import FinishReason


@dataclass(frozen=True)
class TextDelta:
    """More of the answer's text."""

    text: str


@dataclass(frozen=True)
class ReasoningDelta:
    """More of what the model thinks before it answers."""

    text: str


@dataclass(frozen=True)
class CallStart:
    """A tool call begins. `index` counts the calls of an answer from 0; `id` is what its result will be sent under."""

    index: int
    id: str
    name: str


@dataclass(frozen=True)
class CallDelta:
    """More of call `index`'s arguments: a piece of the text of one JSON object."""

    index: int
    arguments: str


AnswerEvent = TextDelta | ReasoningDelta | CallStart | CallDelta
#: why an answer ended; "tool_calls" if it ended by itself and called
EndReason = FinishReason | Literal["tool_calls"]
