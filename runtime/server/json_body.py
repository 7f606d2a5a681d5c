"""A request's body: strict JSON, checked against its model. Pure; what is refused is an ApiError 400."""

from __future__ import annotations

import re
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json

from runtime.server.errors import invalid
from runtime.server.faults import explain
from runtime.server.protocol_generation import Body
from runtime.server.wording import shown

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_FAULT = re.compile(r"(?P<what>.*) at line (?P<line>\d+) column (?P<column>\d+)", re.DOTALL)
_EXCERPT = 20

_ENCODING = "encode it as UTF-8"
#: a word of the parser's complaint -> what to do about it
_FIXES = {
    "EOF": "send all of it",
    "hex escape": r"escapes are \u and four digits, and half of a surrogate pair (\ud800 to \udfff) needs its other half",
    "unicode": _ENCODING,
    "out of range": "numbers have at most 4300 digits",
    "recursion": "lists and objects may be nested at most 200 deep",
    "number": "numbers are finite and written as in 1, -1.5 and 2e3",
    "expected value": "NaN, Infinity, None, single quotes and comments are not JSON",
}


def parse(raw: bytes, adapter: TypeAdapter[Any]) -> Any:
    """The body that `raw` holds. Its unknown fields are named in the log. Raises ApiError 400."""
    if not raw:
        raise invalid("the body must be a JSON object, got nothing; send one with Content-Type: application/json")
    content = parse_json(raw)
    try:
        body = adapter.validate_python(content)
    except ValidationError as error:
        raise invalid(*explain(error, content)) from error
    if isinstance(body, Body):
        body.log_unknown_fields()
    return body


def parse_json(raw: bytes) -> Any:
    """RFC 8259, as no serializer breaks it: UTF-8, no NaN, no half of a surrogate pair. Raises ApiError 400."""
    raw = raw.removeprefix(_BYTE_ORDER_MARK)
    try:
        return from_json(raw, allow_inf_nan=False)
    except ValueError as error:
        raise invalid(_complaint(raw, str(error))) from error


def _complaint(raw: bytes, message: str) -> str:
    found = _FAULT.fullmatch(message)
    if found is None:
        return f"the body must be JSON: {message}"
    line, column = int(found["line"]), int(found["column"])
    text = raw.split(b"\n", line)[line - 1] if raw else raw
    excerpt = text[max(0, column - _EXCERPT) : column + _EXCERPT].decode(errors="replace")
    fix = next((fix for word, fix in _FIXES.items() if word in found["what"]), "send what a JSON serializer writes")
    try:
        raw.decode()
    except UnicodeDecodeError:
        fix = _ENCODING
    return f"the body must be JSON, got {shown(excerpt)} around line {line}, column {column} ({found['what']}); {fix}"


def check_content_type(given: str) -> None:
    """Of a body that is not empty. A browser asks before it sends this type to another site's server (CORS)."""
    kind = given.partition(";")[0].strip().lower()
    if not re.fullmatch(r"application/(\S+\+)?json", kind):
        raise invalid(
            f"the body must come as application/json, got {shown(given) if given else 'no content type'}; "
            "send the header Content-Type: application/json"
        )
