"""An answer in the words of chat completions: a message, or the delta of one event."""

from __future__ import annotations

from typing import Any

from runtime.answer.events import AnswerEvent, CallDelta, CallStart, ReasoningDelta, TextDelta
from runtime.answer.whole import Answer
from runtime.server.protocol_chat import AnswerCall, AnswerMessage, CalledFunction, CallPart, Delta


def message(answer: Answer) -> AnswerMessage:
    """`content` is null where there are calls and nothing else is said."""
    fields: dict[str, Any] = {"content": answer.text or (None if answer.calls else "")}
    if answer.reasoning is not None:
        fields |= {"reasoning_content": answer.reasoning, "reasoning": answer.reasoning}
    if answer.calls:
        fields["tool_calls"] = [
            AnswerCall(id=call.id, type="function", function=CalledFunction(name=call.name, arguments=call.arguments))
            for call in answer.calls
        ]
    return AnswerMessage(role="assistant", **fields)


def delta(event: AnswerEvent | None) -> Delta:
    """What a chunk says of `event`; nothing if there is none."""
    match event:
        case None:
            return Delta()
        case TextDelta(text):
            return Delta(content=text)
        case ReasoningDelta(text):
            return Delta(reasoning_content=text, reasoning=text)
        case CallStart(index, id, name):
            function = CalledFunction(name=name, arguments="")
            return Delta(tool_calls=[CallPart(index=index, id=id, type="function", function=function)])
        case CallDelta(index, arguments):
            return Delta(tool_calls=[CallPart(index=index, function=CalledFunction(arguments=arguments))])
