"""An answer's events -> the blocks of a message, and the events of its stream, in Anthropic's order. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic_core import from_json

from runtime.answer.events import AnswerEvent, CallStart, EndReason, ReasoningDelta, TextDelta
from runtime.server.protocol_messages import (
    AnsweredMessage,
    MessageEvent,
    MessageUsage,
    TextAnswer,
    ThinkingAnswer,
    ToolUseAnswer,
)

StopReason = Literal["end_turn", "max_tokens", "model_context_window_exceeded", "stop_sequence", "tool_use"]


class MessageWriter:
    """Writes `message` block by block. Each method's events are to be sent, or dropped, in order; they are what it did."""

    def __init__(self, message: AnsweredMessage) -> None:
        self.message = message
        self._is_open = False
        self._pieces: list[str] = []

    def begin(self) -> Iterator[MessageEvent]:
        yield MessageEvent(type="message_start", message=self.message.model_copy(update={"content": []}))

    def push(self, event: AnswerEvent) -> Iterator[MessageEvent]:
        if isinstance(event, CallStart):
            yield from self._open(ToolUseAnswer(id=event.id, name=event.name, input={}))
        elif isinstance(event, TextDelta):
            if not self._is_in(TextAnswer):
                yield from self._open(TextAnswer(text=""))
            yield self._grown(event.text, type="text_delta", text=event.text)
        elif isinstance(event, ReasoningDelta):
            if not self._is_in(ThinkingAnswer):
                yield from self._open(ThinkingAnswer(thinking="", signature=""))
            yield self._grown(event.text, type="thinking_delta", thinking=event.text)
        else:
            yield self._grown(event.arguments, type="input_json_delta", partial_json=event.arguments)

    def finish(
        self, reason: EndReason, stop_string: str | None, usage: MessageUsage, *, max_tokens: int
    ) -> Iterator[MessageEvent]:
        """The message's end; `stop_string` is the one that ended it, `max_tokens` what the client asked for at most."""
        yield from self._close()
        message = self.message
        message.stop_reason = self._stop_reason(reason, stop_string, usage.output_tokens < max_tokens)
        message.stop_sequence = stop_string
        message.usage = usage
        delta = {"stop_reason": message.stop_reason, "stop_sequence": stop_string}
        yield MessageEvent(type="message_delta", delta=delta, usage=usage)
        yield MessageEvent(type="message_stop")

    def _stop_reason(self, reason: EndReason, stop_string: str | None, might_go_on: bool) -> StopReason:
        if reason == "length":
            return "model_context_window_exceeded" if might_go_on else "max_tokens"
        if any(isinstance(block, ToolUseAnswer) for block in self.message.content):
            return "tool_use"
        return "end_turn" if stop_string is None else "stop_sequence"

    def _open(self, block: TextAnswer | ThinkingAnswer | ToolUseAnswer) -> Iterator[MessageEvent]:
        yield from self._close()
        self._is_open, self._pieces = True, []
        self.message.content.append(block)
        yield MessageEvent(type="content_block_start", index=self._index, content_block=block.model_copy())

    def _grown(self, piece: str, **delta: str) -> MessageEvent:
        assert self._is_open, "calls begin before their arguments"
        self._pieces.append(piece)
        return MessageEvent(type="content_block_delta", index=self._index, delta=delta)

    def _close(self) -> Iterator[MessageEvent]:
        if not self._is_open:
            return
        block, text = self.message.content[-1], "".join(self._pieces)
        if isinstance(block, TextAnswer):
            block.text = text
        elif isinstance(block, ThinkingAnswer):
            block.thinking = text
            # Clients take what has no signature for unfinished.
            yield MessageEvent(
                type="content_block_delta", index=self._index, delta={"type": "signature_delta", "signature": ""}
            )
        else:
            block.input = parsed(text)
        self._is_open = False
        yield MessageEvent(type="content_block_stop", index=self._index)

    def _is_in(self, kind: type) -> bool:
        return self._is_open and isinstance(self.message.content[-1], kind)

    @property
    def _index(self) -> int:
        return len(self.message.content) - 1


def parsed(arguments: str) -> dict[str, Any]:
    """The object that a call's arguments are: of a text that was cut short, as far as it goes; empty if it is none."""
    try:
        value = from_json(arguments, allow_partial=True)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
