"""Random JSON schemas over the keywords that answers can be held to, most of which some text satisfies."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from runtime.json_schema import FORMATS

Schema = dict[str, Any]

_NAMES = st.sampled_from(["name", "age", "city", "items", "ok", "é", "a b", "kind", "x-1", "Größe"])
_PATTERNS = ("^[a-z]{1,8}$", "^[A-Z]{3}-[0-9]{2}$", "^(yes|no)$", "^#[0-9a-f]{6}$", "^v[0-9](\\.[0-9]){1,2}$", "^\\S{1,5}$")
_CONSTANTS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-999, 999),
    st.sampled_from(["red", 'a "b"\\', "日本", ""]),
    st.just({"a": [1, None]}),
)


def schemas(bounded: bool) -> st.SearchStrategy[Schema]:
    """`bounded` ones have a keyword that bounds each string, list and object, so that every text that fits is short."""
    inner = st.recursive(_leaves(bounded), lambda parts: _containers(parts, bounded), max_leaves=6)
    return st.one_of(inner, _containers(inner, bounded), _with_definitions(inner))


def _leaves(bounded: bool) -> st.SearchStrategy[Schema]:
    return st.one_of(
        st.just({"type": "null"}),
        st.just({"type": "boolean"}),
        st.just({"type": ["boolean", "null"]}),
        st.builds(lambda value: {"const": value}, _CONSTANTS),
        st.builds(lambda values: {"enum": values}, st.lists(_CONSTANTS, min_size=1, max_size=4)),
        _integers(),
        _numbers(),
        _strings(bounded),
    )


@st.composite
def _integers(draw: st.DrawFn) -> Schema:
    schema: Schema = {"type": "integer"}
    if draw(st.booleans()):
        low = draw(st.integers(-1000, 1000))
        schema[draw(st.sampled_from(["minimum", "exclusiveMinimum"]))] = low
        if draw(st.booleans()):
            schema[draw(st.sampled_from(["maximum", "exclusiveMaximum"]))] = low + draw(st.integers(20, 10**6))
    elif draw(st.booleans()):
        schema["maximum"] = draw(st.integers(-1000, 1000))
    if draw(st.integers(0, 3)) == 0:
        schema["multipleOf"] = draw(st.integers(2, 9))
    return schema


@st.composite
def _numbers(draw: st.DrawFn) -> Schema:
    schema: Schema = {"type": "number"}
    if draw(st.booleans()):
        low = draw(st.sampled_from([-100, -1.5, 0, 0.25, 3]))
        schema[draw(st.sampled_from(["minimum", "exclusiveMinimum"]))] = low
        schema[draw(st.sampled_from(["maximum", "exclusiveMaximum"]))] = low + draw(st.sampled_from([1, 2.5, 1000]))
        if draw(st.booleans()):
            schema["multipleOf"] = draw(st.sampled_from([0.25, 0.5]))
    return schema


@st.composite
def _strings(draw: st.DrawFn, bounded: bool) -> Schema:
    schema: Schema = {"type": "string"}
    kinds = ["length", "pattern", "format"] if bounded else ["any", "length", "least", "pattern", "format"]
    match draw(st.sampled_from(kinds)):
        case "length":
            schema["minLength"] = draw(st.integers(0, 5))
            schema["maxLength"] = schema["minLength"] + draw(st.integers(0, 20))
        case "least":
            schema["minLength"] = draw(st.integers(1, 5))
        case "pattern":
            schema["pattern"] = draw(st.sampled_from(_PATTERNS))
        case "format":
            schema["format"] = draw(st.sampled_from(sorted(FORMATS - {"uri", "email", "hostname"} if bounded else FORMATS)))
            if bounded:
                schema["maxLength"] = 50
    return schema


def _containers(parts: st.SearchStrategy[Schema], bounded: bool) -> st.SearchStrategy[Schema]:
    alternatives = st.lists(parts, min_size=1, max_size=3)
    return st.one_of(
        _objects(parts, bounded),
        _objects(parts, bounded),
        _arrays(parts, bounded),
        st.builds(lambda options: {"anyOf": options}, alternatives),
        st.builds(lambda one, two: {"oneOf": [_tagged("one", one), _tagged("two", two)]}, parts, parts),
        st.builds(lambda one, two: {"allOf": [_only("left", one), _only("right", two)], "maxProperties": 2}, parts, parts),
    )


def _tagged(tag: str, schema: Schema) -> Schema:
    return {"type": "object", "properties": {"kind": {"const": tag}, "value": schema}, "required": ["kind"]} | _CLOSED


def _only(name: str, schema: Schema) -> Schema:
    return {"type": "object", "properties": {name: schema}, "required": [name]}


_CLOSED = {"additionalProperties": False}


@st.composite
def _objects(draw: st.DrawFn, parts: st.SearchStrategy[Schema], bounded: bool) -> Schema:
    names = draw(st.lists(_NAMES, max_size=4, unique=True))
    schema: Schema = {"type": "object", "properties": {name: draw(parts) for name in names}}
    schema["required"] = [name for name in names if draw(st.booleans())]
    match draw(st.integers(0, 5)):
        case 0:
            schema["additionalProperties"] = False
        case 1 if names:
            schema["minProperties"] = draw(st.integers(0, len(schema["required"])))
            schema["maxProperties"] = len(names)
            schema["additionalProperties"] = False
        case 2:
            schema["patternProperties"] = {"^[p-t]{2,3}$": draw(parts)}
            schema["additionalProperties"] = False
            schema["required"] = names
            schema["minProperties"] = len(names) + draw(st.integers(0, 1))
            schema["maxProperties"] = len(names) + 2
        case 3 if not bounded:
            schema["additionalProperties"] = draw(st.one_of(st.just(True), parts))
        case _ if bounded:
            schema["additionalProperties"] = False
    return schema


@st.composite
def _arrays(draw: st.DrawFn, parts: st.SearchStrategy[Schema], bounded: bool) -> Schema:
    schema: Schema = {"type": "array", "items": draw(parts)}
    if draw(st.integers(0, 3)) == 0:
        schema["prefixItems"] = draw(st.lists(parts, min_size=1, max_size=2))
        schema["items"] = False
        schema["minItems"] = draw(st.integers(0, len(schema["prefixItems"])))
    elif bounded or draw(st.booleans()):
        schema["minItems"] = draw(st.integers(0, 2))
        schema["maxItems"] = schema["minItems"] + draw(st.integers(0, 2))
    return schema


def _with_definitions(parts: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    def of(part: Schema, key: str) -> Schema:
        reference = {"$ref": f"#/{key}/part"}
        properties = {"first": reference, "second": {"anyOf": [reference, {"type": "null"}]}}
        return {"type": "object", "properties": properties, "required": ["first"], key: {"part": part}} | _CLOSED

    return st.builds(of, parts, st.sampled_from(["$defs", "definitions"]))
