"""The events of an answer as a format's reader finds them: whitespace beside calls is no text, but divides the texts."""

from __future__ import annotations

from collections.abc import Callable

from runtime.answer.events import AnswerEvent, CallDelta, CallStart, TextDelta


class EventsOut:
    """Collects events; neighbours of one kind become one."""

    def __init__(self, new_id: Callable[[], str], max_calls: int | None) -> None:
        self.num_calls = 0
        self.is_complete = False
        self._new_id = new_id
        self._max_calls = max_calls
        self._events: list[AnswerEvent] = []
        self._space = ""
        self._is_beside_call = False
        self._has_text = False

    def text(self, text: str) -> None:
        """More text; a space at its end waits for what comes next."""
        if self._is_beside_call:
            text = text.lstrip()
            text = "\n" + text if text and self._has_text else text
        if not text:
            return
        self._is_beside_call = False
        text = self._space + text
        shown = text.rstrip()
        self._space = text[len(shown) :]
        self._add_text(shown)

    def call(self, name: str) -> None:
        self._space = ""
        self._is_beside_call = True
        self._events.append(CallStart(self.num_calls, self._new_id(), name))
        self.num_calls += 1

    def arguments(self, piece: str) -> None:
        """More of the last call's arguments."""
        last = self._events[-1] if self._events else None
        if isinstance(last, CallDelta):
            self._events[-1] = CallDelta(last.index, last.arguments + piece)
        elif piece:
            self._events.append(CallDelta(self.num_calls - 1, piece))

    def end_call(self) -> None:
        """The last call is whole."""
        self.is_complete = self.num_calls == self._max_calls

    def end(self) -> None:
        self._add_text(self._space)
        self._space = ""

    def taken(self) -> list[AnswerEvent]:
        """The events since the last time."""
        events, self._events = self._events, []
        return events

    def _add_text(self, text: str) -> None:
        last = self._events[-1] if self._events else None
        if isinstance(last, TextDelta):
            self._events[-1] = TextDelta(last.text + text)
        elif text:
            self._events.append(TextDelta(text))
        self._has_text |= bool(text)
