"""`{"name": ..., "parameters": {...}}`, alone or after `<|python_tag|>`: Llama 3.1 to 3.3."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from runtime.answer.cursor import Cursor, Steps
from runtime.tools.events_out import EventsOut
from runtime.tools.functions import Functions, new_id
from runtime.tools.json_calls import as_object
from runtime.tools.lark import calls, json_object
from runtime.tools.reading import read_bare_calls, read_calls, read_marked
from runtime.tools.tool_format import WrittenCall

_TAG = "<|python_tag|>"


class Llama3:
    name = "llama3"
    markers: tuple[str, ...] = (_TAG,)

    def writes(self, template: str) -> bool:
        return "ipython" in template and '"parameters": ' in template

    def new_id(self) -> str:
        return new_id()

    def written(self, calls: Sequence[WrittenCall]) -> str:
        return "; ".join(as_object(*call, "parameters") for call in calls)

    def read(self, cursor: Cursor, out: EventsOut, functions: Functions) -> Steps[None]:
        """Without the tag only an answer that begins with a call of a known function is one: any JSON looks like it."""
        yield from read_bare_calls(cursor, out, functions)
        yield from read_marked(cursor, out, {_TAG: partial(read_calls, cursor, out, lambda name: True)})

    def lark(self, functions: Functions, special: Mapping[str, int]) -> str:
        return calls(functions, lambda function, arguments: json_object(function, arguments, "parameters"), between='"; "')
