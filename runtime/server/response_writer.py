"""An answer's events -> the items of a response, and the events of its stream, in OpenAI's order. Pure."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

from runtime.answer.events import AnswerEvent, CallStart, EndReason, ReasoningDelta, TextDelta
from runtime.server.protocol_chat import TokenLogprob
from runtime.server.response_object import (
    IncompleteDetails,
    ItemStatus,
    OutputCall,
    OutputItem,
    OutputMessage,
    OutputReasoning,
    OutputText,
    ReasoningText,
    Response,
    ResponseEvent,
    ResponseFailure,
    ResponseUsage,
)


class ResponseWriter:
    """Writes `response` item by item. Each method's events are to be sent, or dropped, in order; they are what it did.

    An item is open from its first event to the first of another one. The items of an answer follow each other.
    """

    def __init__(self, response: Response) -> None:
        self.response = response
        self._numbers = count()
        self._open: OutputItem | None = None
        self._pieces: list[str] = []
        self._logprobs: list[TokenLogprob] = []

    def begin(self) -> Iterator[ResponseEvent]:
        for state in ("created", "in_progress"):
            yield self._event(f"response.{state}", response=self.response.model_copy(update={"output": []}))

    def push(self, event: AnswerEvent, logprobs: Sequence[TokenLogprob] = ()) -> Iterator[ResponseEvent]:
        """`logprobs` are those of the tokens of a text."""
        if isinstance(event, CallStart):
            yield from self._close("completed")
            call = OutputCall(id=_new_id("fc"), status="in_progress", call_id=event.id, name=event.name, arguments="")
            yield from self._begin(call)
        elif isinstance(event, TextDelta):
            if not isinstance(self._open, OutputMessage):
                yield from self._close("completed")
                yield from self._begin(OutputMessage(id=_new_id("msg"), status="in_progress", content=[]))
            self._logprobs += logprobs
            yield self._grown("response.output_text.delta", event.text, content_index=0, logprobs=list(logprobs))
        elif isinstance(event, ReasoningDelta):
            if not isinstance(self._open, OutputReasoning):
                yield from self._close("completed")
                yield from self._begin(OutputReasoning(id=_new_id("rs"), status="in_progress", summary=[], content=[]))
            yield self._grown("response.reasoning_text.delta", event.text, content_index=0)
        else:
            yield self._grown("response.function_call_arguments.delta", event.arguments)

    def finish(self, reason: EndReason, usage: ResponseUsage) -> Iterator[ResponseEvent]:
        """The response's end. A response without any item has an empty message, so that clients find a text."""
        if not self.response.output:
            yield from self.push(TextDelta(""))
        is_cut = reason == "length"
        yield from self._close("incomplete" if is_cut else "completed")
        self.response.usage = usage
        self.response.completed_at = None if is_cut else int(time.time())
        self.response.incomplete_details = IncompleteDetails(reason="max_output_tokens") if is_cut else None
        self.response.status = "incomplete" if is_cut else "completed"
        yield self._event(f"response.{self.response.status}", response=self.response)

    def fail(self, code: str, message: str) -> ResponseEvent:
        """The end of a response that cannot go on."""
        self.response.status = "failed"
        self.response.error = ResponseFailure(code=code, message=message)
        return self._event("response.failed", response=self.response)

    def _begin(self, item: OutputItem) -> Iterator[ResponseEvent]:
        self._open, self._pieces, self._logprobs = item, [], []
        self.response.output.append(item)
        yield self._event("response.output_item.added", output_index=self._index, item=item.model_copy())
        if not isinstance(item, OutputCall):
            is_text = isinstance(item, OutputMessage)
            part = OutputText(text="", annotations=[], logprobs=[]) if is_text else ReasoningText(text="")
            yield self._in_item("response.content_part.added", content_index=0, part=part)

    def _grown(self, type: str, piece: str, **fields: Any) -> ResponseEvent:
        self._pieces.append(piece)
        return self._in_item(type, delta=piece, **fields)

    def _close(self, status: ItemStatus) -> Iterator[ResponseEvent]:
        item, text = self._open, "".join(self._pieces)
        if item is None:
            return
        if isinstance(item, OutputCall):
            item.arguments = text
            yield self._in_item("response.function_call_arguments.done", name=item.name, arguments=text)
        elif isinstance(item, OutputReasoning):
            item.content = [ReasoningText(text=text)]
            yield self._in_item("response.reasoning_text.done", content_index=0, text=text)
            yield self._in_item("response.content_part.done", content_index=0, part=item.content[0])
        else:
            item.content = [OutputText(text=text, annotations=[], logprobs=self._logprobs)]
            yield self._in_item("response.output_text.done", content_index=0, text=text, logprobs=self._logprobs)
            yield self._in_item("response.content_part.done", content_index=0, part=item.content[0])
        item.status = status
        yield self._event("response.output_item.done", output_index=self._index, item=item)
        self._open = None

    def _in_item(self, type: str, **fields: Any) -> ResponseEvent:
        assert self._open is not None, "calls begin before their arguments"
        return self._event(type, item_id=self._open.id, output_index=self._index, **fields)

    @property
    def _index(self) -> int:
        return len(self.response.output) - 1

    def _event(self, type: str, **fields: Any) -> ResponseEvent:
        return ResponseEvent(type=type, sequence_number=next(self._numbers), **fields)


def _new_id(prefix: str) -> str:
    return f"{prefix}_{uuid.uuid4().hex}"
