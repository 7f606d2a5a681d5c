"""Calls between tokens of their own, arguments in a fence (V2 to R1) or bare (V3.1): DeepSeek."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from runtime.answer.cursor import Cursor, Steps
from runtime.tools.events_out import EventsOut
from runtime.tools.functions import Function, Functions, new_id
from runtime.tools.lark import calls, literal, marker
from runtime.tools.reading import read_marked, skip_after_space, stream_arguments
from runtime.tools.tool_format import WrittenCall

_CALLS, _CALLS_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"  # noqa: RUF001 -- the model's own characters
_CALL, _CALL_END = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"  # noqa: RUF001
_SEP = "<｜tool▁sep｜>"  # noqa: RUF001
_LONGEST_NAME = 256


class DeepSeek:
    name = "deepseek"
    markers: tuple[str, ...] = (_CALLS, _CALLS_END, _CALL, _CALL_END, _SEP)

    def writes(self, template: str) -> bool:
        return _CALL in template and "```json" in template

    def new_id(self) -> str:
        return new_id()

    def written(self, calls: Sequence[WrittenCall]) -> str:
        lines = [f"{_CALL}function{_SEP}{name}\n```json\n{arguments}\n```{_CALL_END}" for name, arguments in calls]
        return _CALLS + "\n".join(lines) + _CALLS_END

    def read(self, cursor: Cursor, out: EventsOut, functions: Functions) -> Steps[None]:
        def call() -> Steps[bool]:
            name = yield from cursor.until((_SEP,), _LONGEST_NAME)
            if name is None:
                return False
            yield from cursor.skips(_SEP)
            yield from cursor.skip_space()
            if (yield from cursor.next()) != "{":  # that was the type
                name = yield from cursor.until(("\n", "```"), _LONGEST_NAME)
                yield from cursor.skip_space()
                yield from cursor.skips_any(("```json", "```"))
                yield from cursor.skip_space()
            if name is None or not (yield from stream_arguments(cursor, out, name.strip())):
                return False
            yield from skip_after_space(cursor, "```")
            yield from skip_after_space(cursor, _CALL_END)
            yield from skip_after_space(cursor, _CALLS_END)
            return True

        def first_call() -> Steps[bool]:
            return (yield from skip_after_space(cursor, _CALL)) and (yield from call())

        yield from read_marked(cursor, out, {_CALLS: first_call, _CALL: call})

    def lark(self, functions: Functions, special: Mapping[str, int]) -> str:
        begin, sep, end = (marker(text, special) for text in (_CALL, _SEP, _CALL_END))

        def call(function: Function, arguments: str) -> str:
            head, tail = literal(function.name + "\n```json\n"), literal("\n```")
            return f'{begin} "function" {sep} {head} {arguments} {tail} {end}'

        return calls(functions, call, marker(_CALLS, special), end=marker(_CALLS_END, special))


class DeepSeekV31(DeepSeek):
    name = "deepseek-v3.1"

    def writes(self, template: str) -> bool:
        return _CALL in template and "```json" not in template

    def written(self, calls: Sequence[WrittenCall]) -> str:
        return _CALLS + "".join(f"{_CALL}{name}{_SEP}{arguments}{_CALL_END}" for name, arguments in calls) + _CALLS_END

    def lark(self, functions: Functions, special: Mapping[str, int]) -> str:
        begin, sep, end = (marker(text, special) for text in (_CALL, _SEP, _CALL_END))
        return calls(
            functions,
            lambda function, arguments: f"{begin} {literal(function.name)} {sep} {arguments} {end}",
            marker(_CALLS, special),
            '""',
            marker(_CALLS_END, special),
        )
