"""Grammars of calls, in llguidance's dialect of Lark."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from runtime.tools.functions import Function, Functions

#: JSON as templates write it, so that a model meets what it was trained on
_SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}

#: that an answer must stop after: a small model that may go on with one more call does so for ever
_MOST_CALLS = 16


def literal(text: str) -> str:
    """`text` and nothing else."""
    return json.dumps(text, ensure_ascii=False)


def marker(text: str, special: Mapping[str, int]) -> str:
    """`text`, by its token where it is a special one."""
    return f"<[{special[text]}]>" if text in special else literal(text)


def schema(function: Function) -> str:
    """The arguments of `function`: an object that its schema allows."""
    parameters: dict[str, Any] = {"type": "object", **function.parameters, "x-guidance": _SPACING}
    return "%json " + json.dumps(parameters)


def json_object(function: Function, arguments: str, key: str = "arguments") -> str:
    """A call as an object; `arguments` is a rule."""
    begin = f'{{"name": {json.dumps(function.name)}, "{key}": '
    return f'{literal(begin)} {arguments} "}}"'


def calls(
    functions: Functions, call: Callable[[Function, str], str], begin: str = "", between: str = '"\\n"', end: str = ""
) -> str:
    """Rules: `calls` is `begin`, one `call` or several with `between` between them, and `end`.

    `call(function, arguments)` are a call's terms, where `arguments` is the rule of its arguments.
    """
    rules = []
    for index, function in enumerate(functions.all):
        rules += [f"call_{index}: {call(function, f'arguments_{index}')}", f"arguments_{index}: {schema(function)}"]
    alternatives = " | ".join(f"call_{index}" for index in range(len(functions.all)))
    several = "call" if functions.max_calls == 1 else f"call ({between} call){{0,{_MOST_CALLS - 1}}}"
    return "\n".join([f"calls: {begin} {several} {end}", f"call: {alternatives}", *rules, ""])
