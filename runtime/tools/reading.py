"""What readers of tool calls share: text up to a marker, calls without one."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from runtime.answer.cursor import Cursor, Steps, open_end
from runtime.answer.events import AnswerEvent
from runtime.tools.events_out import EventsOut
from runtime.tools.functions import Functions
from runtime.tools.json_calls import read_call, stream_value
from runtime.tools.tool_format import ToolFormat

#: what begins calls in a text -> reads them after it; False if there are none
Openings = Mapping[str, Callable[[], Steps[bool]]]


class ToolReader:
    """An `AnswerReader` of text and calls."""

    is_reasoning = False

    def __init__(self, format: ToolFormat, functions: Functions) -> None:
        self._cursor = Cursor()
        self._out = EventsOut(format.new_id, functions.max_calls)
        self._steps = format.read(self._cursor, self._out, functions)

    @property
    def num_calls(self) -> int:
        return self._out.num_calls

    @property
    def is_complete(self) -> bool:
        return self._out.is_complete

    def push(self, text: str) -> list[AnswerEvent]:
        self._cursor.feed(text)
        next(self._steps, None)
        return self._out.taken()

    def flush(self) -> list[AnswerEvent]:
        self._cursor.end()
        next(self._steps, None)
        self._out.end()
        return self._out.taken()


def read_marked(cursor: Cursor, out: EventsOut, openings: Openings) -> Steps[None]:
    """Text, and calls after each of `openings`; an opening that no call follows is text."""
    while not out.is_complete:
        opening = yield from _text_until(cursor, out, tuple(openings))
        if opening is None:
            return
        start = cursor.position
        num_calls = out.num_calls
        if not (yield from openings[opening]()) and out.num_calls == num_calls:
            cursor.position = start
            out.text(opening)


def _text_until(cursor: Cursor, out: EventsOut, openings: tuple[str, ...]) -> Steps[str | None]:
    """Gives text out up to the first of `openings`, which is read too; None at the end of the text."""
    while True:
        rest = cursor.rest
        found = [(rest.index(opening), opening) for opening in openings if opening in rest]
        if found:
            at, opening = min(found)
            out.text(cursor.take(at))
            cursor.take(len(opening))
            return opening
        out.text(cursor.take(len(rest) - (0 if cursor.has_ended else open_end(rest, openings))))
        cursor.forget()
        if cursor.has_ended:
            return None
        yield


def read_bare_calls(cursor: Cursor, out: EventsOut, functions: Functions) -> Steps[None]:
    """Calls of known functions with which an answer begins: objects, or a list of them, in a Markdown fence or not."""
    start = cursor.position
    yield from cursor.skip_space()
    fence = yield from cursor.skips_any(("```json", "```"))
    yield from cursor.skip_space()
    is_list = yield from cursor.skips("[")
    num_calls = out.num_calls
    yield from read_calls(cursor, out, lambda name: functions.named(name) is not None)
    if out.num_calls == num_calls:
        cursor.position = start
        return
    if is_list:
        yield from skip_after_space(cursor, "]")
    if fence:
        yield from skip_after_space(cursor, "```")


def read_calls(cursor: Cursor, out: EventsOut, accepts: Callable[[str], bool]) -> Steps[bool]:
    """Objects of calls, one after the other, divided or not. False if there is none."""
    num_calls = out.num_calls
    while not out.is_complete:
        yield from cursor.skip_space()
        start = cursor.position
        if not (yield from read_call(cursor, out, accepts)):
            cursor.position = start
            break
        cursor.forget()
        yield from cursor.skip_space()
        yield from cursor.skips_any((",", ";"))
    return out.num_calls > num_calls


def stream_arguments(cursor: Cursor, out: EventsOut, name: str) -> Steps[bool]:
    """A call of `name`, whose arguments are the object that comes; False if none does."""
    if (yield from cursor.next()) != "{" or not name:
        return False
    out.call(name)

    def give(piece: str) -> None:
        out.arguments(piece)
        cursor.forget()

    if (yield from stream_value(cursor, give)):
        out.end_call()
    return True


def skip_after_space(cursor: Cursor, word: str) -> Steps[bool]:
    """Whether `word` comes next, after spaces; it is then read, and they are in any case."""
    yield from cursor.skip_space()
    return (yield from cursor.skips(word))
