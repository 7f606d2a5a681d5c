"""`<tool_call>{"name": ..., "arguments": {...}}</tool_call>`: Hermes, Qwen2.5, Qwen3 and many after them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from runtime.answer.cursor import Cursor, Steps
from runtime.tools.events_out import EventsOut
from runtime.tools.functions import Functions, new_id
from runtime.tools.json_calls import as_object
from runtime.tools.lark import calls, json_object, marker
from runtime.tools.reading import read_bare_calls, read_calls, read_marked, skip_after_space
from runtime.tools.tool_format import WrittenCall

_BEGIN, _END = "<tool_call>", "</tool_call>"


class Hermes:
    name = "hermes"
    markers: tuple[str, ...] = (_BEGIN, _END)

    def writes(self, template: str) -> bool:
        return _BEGIN in template and "<function=" not in template and "<arg_key>" not in template

    def new_id(self) -> str:
        return new_id()

    def written(self, calls: Sequence[WrittenCall]) -> str:
        return "\n".join(f"{_BEGIN}\n{as_object(*call)}\n{_END}" for call in calls)

    def read(self, cursor: Cursor, out: EventsOut, functions: Functions) -> Steps[None]:
        """Small models, Qwen2.5-Coder among them, leave the markers out: an answer may begin with a call all the same."""

        def call() -> Steps[bool]:
            found = yield from read_calls(cursor, out, lambda name: True)
            if found:
                yield from skip_after_space(cursor, _END)
            return found

        yield from read_bare_calls(cursor, out, functions)
        yield from read_marked(cursor, out, {_BEGIN: call})

    def lark(self, functions: Functions, special: Mapping[str, int]) -> str:
        begin, end = marker(_BEGIN, special), marker(_END, special)
        return calls(functions, lambda function, arguments: f'{begin} "\\n" {json_object(function, arguments)} "\\n" {end}')
