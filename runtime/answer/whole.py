"""The events of an answer, put together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from runtime.answer.events import AnswerEvent, CallDelta, CallStart, ReasoningDelta, TextDelta


@dataclass(frozen=True)
class ToolCall:
    """`arguments` is the text of a JSON object, as far as the model wrote it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Answer:
    """All of an answer. `reasoning` is None where the model did not think."""

    text: str
    reasoning: str | None
    calls: tuple[ToolCall, ...]

    @classmethod
    def of(cls, events: Iterable[AnswerEvent]) -> Answer:
        text: list[str] = []
        reasoning: list[str] = []
        starts: list[CallStart] = []
        arguments: dict[int, list[str]] = {}
        for event in events:
            match event:
                case TextDelta():
                    text.append(event.text)
                case ReasoningDelta():
                    reasoning.append(event.text)
                case CallStart():
                    starts.append(event)
                    arguments[event.index] = []
                case CallDelta():
                    arguments[event.index].append(event.arguments)
        calls = tuple(ToolCall(start.id, start.name, "".join(arguments[start.index])) for start in starts)
        return cls("".join(text), "".join(reasoning) if reasoning else None, calls)
