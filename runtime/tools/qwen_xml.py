"""`<tool_call><function=NAME><parameter=KEY>value</parameter></function></tool_call>`: Qwen3-Coder and Qwen3.5."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from runtime.answer.cursor import Cursor, Steps, open_end
from runtime.tools.events_out import EventsOut
from runtime.tools.functions import Function, Functions, new_id
from runtime.tools.lark import calls, json_object, marker
from runtime.tools.reading import read_calls, read_marked, skip_after_space
from runtime.tools.tool_format import WrittenCall

_BEGIN, _END = "<tool_call>", "</tool_call>"
_FUNCTION, _FUNCTION_END = "<function=", "</function>"
_PARAMETER, _PARAMETER_END = "<parameter=", "</parameter>"
_LONGEST_NAME = 256
_WORDS = {"None": "null", "True": "true", "False": "false"}
_TYPES: Mapping[type, frozenset[str]] = {
    dict: frozenset({"object"}),
    list: frozenset({"array"}),
    bool: frozenset({"boolean"}),
    int: frozenset({"integer", "number"}),
    float: frozenset({"number"}),
    type(None): frozenset({"null"}),
}


class QwenXml:
    name = "qwen-xml"
    markers: tuple[str, ...] = (_BEGIN, _END)

    def writes(self, template: str) -> bool:
        return _FUNCTION in template and _PARAMETER in template

    def new_id(self) -> str:
        return new_id()

    def written(self, calls: Sequence[WrittenCall]) -> str:
        return "\n".join(f"{_BEGIN}\n{_in_tags(*call)}\n{_END}" for call in calls)

    def read(self, cursor: Cursor, out: EventsOut, functions: Functions) -> Steps[None]:
        """Values become JSON by the types of their schemas. The first marker may be missing; a call may be JSON, as Hermes'."""

        def function() -> Steps[bool]:
            name = yield from cursor.until((">",), _LONGEST_NAME)
            if not name or "\n" in name:
                return False
            yield from cursor.skips(">")
            out.call(name)
            yield from _read_parameters(cursor, out, functions.named(name) or Function(name, {}))
            yield from skip_after_space(cursor, _END)
            return True

        def call() -> Steps[bool]:
            if (yield from skip_after_space(cursor, _FUNCTION)):
                return (yield from function())
            found = yield from read_calls(cursor, out, lambda name: True)
            if found:
                yield from skip_after_space(cursor, _END)
            return found

        yield from read_marked(cursor, out, {_BEGIN: call, _FUNCTION: function})

    def lark(self, functions: Functions, special: Mapping[str, int]) -> str:
        """As JSON: that a text between tags fits any schema of strings cannot be said in a grammar."""
        begin, end = marker(_BEGIN, special), marker(_END, special)
        return calls(functions, lambda function, arguments: f'{begin} "\\n" {json_object(function, arguments)} "\\n" {end}')


def _in_tags(name: str, arguments: str) -> str:
    lines = [f"{_FUNCTION}{name}>"]
    for key, value in json.loads(arguments).items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        lines.append(f"{_PARAMETER}{key}>\n{text}\n{_PARAMETER_END}")
    return "\n".join([*lines, _FUNCTION_END])


def _read_parameters(cursor: Cursor, out: EventsOut, function: Function) -> Steps[None]:
    opening = "{"
    while (yield from skip_after_space(cursor, _PARAMETER)):
        key = yield from cursor.until((">",), _LONGEST_NAME)
        if key is None:
            return
        yield from cursor.skips(">")
        yield from cursor.skips("\n")
        out.arguments(f"{opening}{json.dumps(key, ensure_ascii=False)}: ")
        opening = ", "
        types = _types(function.parameters.get("properties", {}).get(key))
        if types == {"string"}:
            out.arguments('"')
            if not (yield from _read_text(cursor, out)):
                return
            out.arguments('"')
        else:
            value = yield from _read_value(cursor)
            if value is None:
                return
            out.arguments(_as_json(value, types))
        cursor.forget()
    if (yield from skip_after_space(cursor, _FUNCTION_END)):
        out.arguments("{}" if opening == "{" else "}")
        out.end_call()


def _read_text(cursor: Cursor, out: EventsOut) -> Steps[bool]:
    """Gives a string's characters as JSON, as they come, without the line break before its end. False if it breaks off."""
    end = "\n" + _PARAMETER_END
    while True:
        rest = cursor.rest
        at = rest.find(_PARAMETER_END)
        if at >= 0:
            out.arguments(_escaped(cursor.take(at).removesuffix("\n")))
            cursor.take(len(_PARAMETER_END))
            return True
        out.arguments(_escaped(cursor.take(len(rest) - open_end(rest, (end, _PARAMETER_END)))))
        cursor.forget()
        if cursor.has_ended:
            return False
        yield


def _read_value(cursor: Cursor) -> Steps[str | None]:
    while _PARAMETER_END not in cursor.rest:
        if cursor.has_ended:
            return None
        yield
    value = cursor.take(cursor.rest.index(_PARAMETER_END)).removesuffix("\n")
    cursor.take(len(_PARAMETER_END))
    return value


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _as_json(text: str, types: frozenset[str]) -> str:
    """`text` as JSON of one of `types`; any if there are none. What is of none of them is a string."""
    word = _WORDS.get(text.strip(), text)
    try:
        value = json.loads(word)
    except (ValueError, RecursionError):
        return json.dumps(text, ensure_ascii=False)
    fits = not types or bool(_TYPES.get(type(value), frozenset({"string"})) & types)
    if fits and not (isinstance(value, str) and "string" in types):
        return word.strip()
    return json.dumps(text, ensure_ascii=False)


def _types(schema: object) -> frozenset[str]:
    """The JSON types that a schema names, be it of one of several; empty if it names none."""
    if not isinstance(schema, Mapping):
        return frozenset()
    named = schema.get("type", [])
    found = {named} if isinstance(named, str) else {name for name in named if isinstance(name, str)}
    branches: list[Any] = [*(schema.get("anyOf") or []), *(schema.get("oneOf") or [])]
    for branch in branches:
        found |= _types(branch)
    if not found and "enum" in schema and all(isinstance(value, str) for value in schema["enum"]):
        return frozenset({"string"})
    return frozenset(found)
