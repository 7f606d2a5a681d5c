"""`[TOOL_CALLS]` before a list of objects (v2 to v7), or before each name and `[ARGS]` (v11 and later): Mistral."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from runtime.answer.cursor import Cursor, Steps
from runtime.tools.events_out import EventsOut
from runtime.tools.functions import Functions, random_letters
from runtime.tools.json_calls import as_object
from runtime.tools.lark import calls, json_object, literal, marker
from runtime.tools.reading import read_calls, read_marked, skip_after_space, stream_arguments
from runtime.tools.tool_format import WrittenCall

_BEGIN, _ARGS, _ID = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"
_LONGEST_NAME = 256
_ID_LENGTH = 9


class Mistral:
    name = "mistral"
    markers: tuple[str, ...] = (_BEGIN, _ARGS, _ID)

    def writes(self, template: str) -> bool:
        return _BEGIN in template and _ARGS not in template

    def new_id(self) -> str:
        return random_letters(_ID_LENGTH)

    def written(self, calls: Sequence[WrittenCall]) -> str:
        return f"{_BEGIN}[{', '.join(as_object(*call) for call in calls)}]"

    def read(self, cursor: Cursor, out: EventsOut, functions: Functions) -> Steps[None]:
        def after_marker() -> Steps[bool]:
            if (yield from skip_after_space(cursor, "[")):
                found = yield from read_calls(cursor, out, lambda name: True)
                if found:
                    yield from skip_after_space(cursor, "]")
                return found
            name = yield from cursor.until((_ARGS, _ID, "{"), _LONGEST_NAME)
            if name is None:
                return False
            if (yield from cursor.skips(_ID)) and (yield from cursor.until((_ARGS, "{"), _LONGEST_NAME)) is None:
                return False
            yield from cursor.skips(_ARGS)
            yield from cursor.skip_space()
            return (yield from stream_arguments(cursor, out, name.strip()))

        yield from read_marked(cursor, out, {_BEGIN: after_marker})

    def lark(self, functions: Functions, special: Mapping[str, int]) -> str:
        return calls(functions, json_object, f'{marker(_BEGIN, special)} " "? "["', '", "', '"]"')


class MistralV11(Mistral):
    name = "mistral-v11"

    def writes(self, template: str) -> bool:
        return _BEGIN in template and _ARGS in template

    def written(self, calls: Sequence[WrittenCall]) -> str:
        return "".join(f"{_BEGIN}{name}{_ARGS}{arguments}" for name, arguments in calls)

    def lark(self, functions: Functions, special: Mapping[str, int]) -> str:
        begin, args = marker(_BEGIN, special), marker(_ARGS, special)
        return calls(
            functions, lambda function, arguments: f"{begin} {literal(function.name)} {args} {arguments}", between='""'
        )
