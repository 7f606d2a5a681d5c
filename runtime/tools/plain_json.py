"""`{"name": ..., "arguments": {...}}` and nothing else: what a model is asked for whose template knows no tools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from runtime.answer.cursor import Cursor, Steps
from runtime.tools.events_out import EventsOut
from runtime.tools.functions import Functions, new_id
from runtime.tools.json_calls import as_object
from runtime.tools.lark import calls, json_object
from runtime.tools.reading import read_bare_calls, read_marked
from runtime.tools.tool_format import WrittenCall


class PlainJson:
    name = "json"
    markers: tuple[str, ...] = ()

    def writes(self, template: str) -> bool:
        return False

    def new_id(self) -> str:
        return new_id()

    def written(self, calls: Sequence[WrittenCall]) -> str:
        return "\n".join(as_object(*call) for call in calls)

    def read(self, cursor: Cursor, out: EventsOut, functions: Functions) -> Steps[None]:
        yield from read_bare_calls(cursor, out, functions)
        yield from read_marked(cursor, out, {})

    def lark(self, functions: Functions, special: Mapping[str, int]) -> str:
        return calls(functions, json_object)
