"""JSON schemas as constraints: what of them is supported, and the form in which the grammar is made of them. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

#: Keywords that restrict what is allowed and that no grammar is made of. Others are kept, or say nothing about a text.
UNSUPPORTED = frozenset(
    {
        "$dynamicRef", "$recursiveRef", "contains", "dependencies", "dependentRequired", "dependentSchemas", "else", "if",
        "maxContains", "minContains", "not", "propertyNames", "then", "unevaluatedItems", "unevaluatedProperties",
        "uniqueItems",
    }
)  # fmt: skip
FORMATS = frozenset({"date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uri", "uuid"})
_OF_SCHEMAS = ("properties", "patternProperties", "$defs", "definitions")
_SCHEMAS = ("additionalProperties", "items", "additionalItems")
_LISTS = ("prefixItems", "anyOf", "oneOf", "allOf", "items")
_JOINED = ("anyOf", "oneOf", "$ref")
_SILENT = frozenset(
    {"title", "description", "default", "examples", "example", "$comment", "$defs", "definitions", "$schema", "$id"}
)

Schema = dict[str, Any] | bool


class UnsupportedSchema(ValueError):
    """`path` is where in the schema the keyword stands that cannot be followed."""

    def __init__(self, path: str, rule: str) -> None:
        super().__init__(f"{path} {rule}")
        self.path = path


def constraining(schema: object, path: str) -> Schema:
    """A copy of `schema` as grammars are made of it. Raises UnsupportedSchema, with `path` before the place.

    Objects that name properties have no others, unless additionalProperties allows them: a small model would go on adding
    some for ever. This narrows what is allowed. Where schemas are joined (allOf, or a keyword beside anyOf, oneOf, $ref), an
    object may have to satisfy several, and is left as it is.
    """
    checked = _copied(schema, path)
    if not any(_is_joined(part) for part in _parts(checked)):
        for part in _parts(checked):
            _close(part)
    return checked


def _copied(schema: object, path: str) -> Schema:
    if isinstance(schema, bool):
        return schema
    if not isinstance(schema, dict):
        raise UnsupportedSchema(path, f"must be a schema, an object or true or false; got a {type(schema).__name__}")
    copy: dict[str, Any] = {}
    for key, value in schema.items():
        place = f"{path}.{_shown(key)}"
        if key in UNSUPPORTED:
            if key == "uniqueItems" and value is False:
                continue
            raise UnsupportedSchema(
                place, "is not supported: no grammar is made of this keyword; leave it out, and check the answer"
            )
        if key == "format" and isinstance(value, str) and value not in FORMATS:
            raise UnsupportedSchema(place, f"must be one of {', '.join(sorted(FORMATS))}; got {value!r:.80}")
        if key in _OF_SCHEMAS and isinstance(value, dict):
            value = {name: _copied(inner, f"{place}.{_shown(name)}") for name, inner in value.items()}
        elif key in _LISTS and isinstance(value, list):
            value = [_copied(inner, f"{place}.{index}") for index, inner in enumerate(value)]
        elif key in _SCHEMAS:
            value = _copied(value, place)
        copy[key] = value
    return copy


def _shown(name: str) -> str:
    """A name that a client chose, as it may stand in a path: short, and escaped if it is no plain word."""
    return name if re.fullmatch(r"[\w$-]{1,64}", name, re.ASCII) else repr(name[:64])


def _parts(schema: Schema) -> Iterator[dict[str, Any]]:
    """The schema and all schemas in it."""
    if isinstance(schema, bool):
        return
    yield schema
    for key in _OF_SCHEMAS:
        if isinstance(schema.get(key), dict):
            for inner in schema[key].values():
                yield from _parts(inner)
    for key in _LISTS:
        if isinstance(schema.get(key), list):
            for inner in schema[key]:
                yield from _parts(inner)
    for key in _SCHEMAS:
        if isinstance(schema.get(key), dict):
            yield from _parts(schema[key])


def _is_joined(part: Mapping[str, Any]) -> bool:
    """Whether something must satisfy this schema and another one."""
    return "allOf" in part or any(key in part and part.keys() - _SILENT - {key} for key in _JOINED)


def _close(part: dict[str, Any]) -> None:
    properties = part.get("properties")
    if not isinstance(properties, dict) or part.keys() & {"additionalProperties", "patternProperties"}:
        return
    required = part.get("required", [])
    if isinstance(required, list) and all(name in properties for name in required):
        least = part.get("minProperties", 0)
        if not isinstance(least, int | float) or least <= len(properties):
            part["additionalProperties"] = False
