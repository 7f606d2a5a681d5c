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

#: Beyond it integers are not the same to all who read JSON (RFC 7493, 2.2).
_LARGEST_INTEGER = 2**53 - 1

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
    object may have to satisfy several, and is left as it is. An integer without bounds has those of RFC 7493, for digits
    without end have the same reason.
    """
    checked = _copied(schema, path)
    parts = list(_parts(checked, path))
    if not any(_is_joined(part) for _, part in parts):
        for _, part in parts:
            _close(part)
    for place, part in parts:
        _drop_implied_counts(part, place)
        _bound_integer(part)
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
        if key == "multipleOf" and (isinstance(value, bool) or not isinstance(value, int | float) or value <= 0):
            raise UnsupportedSchema(place, f"must be a number above 0; got {value!r:.80}")
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


def _parts(schema: Schema, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The schema and all schemas in it, and where they are."""
    if isinstance(schema, bool):
        return
    yield path, schema
    for key in _OF_SCHEMAS:
        if isinstance(schema.get(key), dict):
            for name, inner in schema[key].items():
                yield from _parts(inner, f"{path}.{key}.{_shown(name)}")
    for key in _LISTS:
        if isinstance(schema.get(key), list):
            for index, inner in enumerate(schema[key]):
                yield from _parts(inner, f"{path}.{key}.{index}")
    for key in _SCHEMAS:
        if isinstance(schema.get(key), dict):
            yield from _parts(schema[key], f"{path}.{key}")


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


def _drop_implied_counts(part: dict[str, Any], path: str) -> None:
    """llguidance counts properties only where all that are named are required; where the others say enough, it need not."""
    properties, required = part.get("properties"), part.get("required", [])
    if not isinstance(properties, dict) or not isinstance(required, list) or all(name in required for name in properties):
        return
    least, most = part.get("minProperties"), part.get("maxProperties")
    is_closed = part.get("additionalProperties") is False and not part.get("patternProperties")
    if isinstance(least, int) and least <= len(set(required)):
        del part["minProperties"]
    if isinstance(most, int) and is_closed and most >= len(properties):
        del part["maxProperties"]
    for key in ("minProperties", "maxProperties"):
        if key in part:
            raise UnsupportedSchema(
                f"{path}.{key}", "is supported only where all properties are required; require them, or leave it out"
            )


def _bound_integer(part: dict[str, Any]) -> None:
    if part.get("type") != "integer" or part.keys() & {"enum", "const"}:
        return
    low = part.get("minimum", part.get("exclusiveMinimum"))
    high = part.get("maximum", part.get("exclusiveMaximum"))
    if high is None and (low is None or (isinstance(low, int | float) and low < _LARGEST_INTEGER)):
        part["maximum"] = _LARGEST_INTEGER
    if low is None and (high is None or (isinstance(high, int | float) and high > -_LARGEST_INTEGER)):
        part["minimum"] = -_LARGEST_INTEGER
