"""The texts that an answer may be."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

#: A space, or a line break and an indentation: what models write. Where any amount is allowed, small models write it for ever.
WHITESPACE = r"[ ]?|\n[ ]{0,20}"


@dataclass(frozen=True)
class Grammar:
    """A context-free grammar in llguidance's dialect of Lark; `start` is the whole answer.

    `%json {...}` in it stands for the texts that a JSON schema allows, `<name>` or `<[id]>` for a token that decodes to no
    text of its own. Whitespace between parts is only what the grammar says. `field` is the request's, for errors.
    """

    lark: str
    field: str | None = None


def of_json_schema(schema: dict[str, Any] | bool, field: str | None = None, whitespace: str = WHITESPACE) -> Grammar:
    """The JSON texts that `schema` allows (see `runtime.json_schema` for what it may say); `whitespace` is a regex."""
    # llguidance reads its options from the schema itself; a client's own ones do not count.
    given = {"allOf": [schema]} if isinstance(schema, bool) else schema
    return Grammar("start: %json " + json.dumps({**given, "x-guidance": {"whitespace_pattern": whitespace}}), field)


def of_regex(regex: str, field: str | None = None) -> Grammar:
    """The texts that match all of `regex`, in the syntax of Rust's regex crate: no look-around, no back references."""
    return Grammar(f"start: /{_slashes_escaped(regex)}/", field)


def of_choices(choices: Sequence[str], field: str | None = None) -> Grammar:
    """One of `choices`."""
    return Grammar("start: " + " | ".join(map(_literal, dict.fromkeys(choices))), field)


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _slashes_escaped(regex: str) -> str:
    """A Lark regex ends at the first slash that no backslash precedes, and is one line."""
    escaped = re.sub(r"(\\.)|/", lambda found: found[1] or r"\/", regex, flags=re.DOTALL)
    return escaped.replace("\n", r"\n").replace("\r", r"\r")
