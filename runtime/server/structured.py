"""What a request's body says about the form of its answer -> one grammar. What is refused raises ApiError 400, RequestError."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from runtime.grammar import WHITESPACE, Grammar, of_choices, of_json_schema, of_regex
from runtime.grammars import lark_of
from runtime.json_schema import UnsupportedSchema, constraining
from runtime.server.errors import invalid
from runtime.server.protocol_generation import GenerationBody, ResponseFormat, StructuredOutputs
from runtime.server.wording import shown

_ANY_OBJECT = {"type": "object"}


def asked_grammar(body: GenerationBody) -> Grammar | None:
    """The grammar of the one field that asks for a form, None if none does. Raises ApiError 400, RequestError."""
    asked = list(_asked(body))
    if len(asked) > 1:
        fields = " and ".join(field for field, _ in asked)
        raise invalid(f"an answer can be held to one form, got {fields}; leave all but one out", asked[1][0])
    return asked[0][1]() if asked else None


_Make = Callable[[], Grammar]


def _asked(body: GenerationBody) -> Iterator[tuple[str, _Make]]:
    """Each field that asks for a form, and what makes its grammar."""
    whitespace = WHITESPACE if body.guided_whitespace_pattern is None else body.guided_whitespace_pattern
    if body.response_format is not None and body.response_format.type != "text":
        format = body.response_format
        yield "response_format", lambda: _of_format(format, whitespace)
    if body.structured_outputs is not None:
        yield from _structured(body.structured_outputs, "structured_outputs")
    for field in ("guided_json", "json_schema"):
        if (schema := getattr(body, field)) is not None:
            yield field, _of_schema(schema, field, whitespace)
    for field in ("guided_regex", "regex"):
        if (regex := getattr(body, field)) is not None:
            yield field, _of_regex(regex, field)
    if body.guided_choice is not None:
        yield "guided_choice", _of_choices(body.guided_choice, "guided_choice")
    for field in ("guided_grammar", "grammar", "ebnf"):
        if (text := getattr(body, field)) is not None:
            yield field, _of_lark(text, field)


def _structured(outputs: StructuredOutputs, field: str) -> Iterator[tuple[str, _Make]]:
    whitespace = "" if outputs.disable_any_whitespace else outputs.whitespace_pattern
    whitespace = WHITESPACE if whitespace is None else whitespace
    makes = {
        "json": None if outputs.json_ is None else _of_schema(outputs.json_, f"{field}.json", whitespace),
        "json_object": _of_schema(_ANY_OBJECT, f"{field}.json_object", whitespace) if outputs.json_object else None,
        "regex": None if outputs.regex is None else _of_regex(outputs.regex, f"{field}.regex"),
        "choice": None if outputs.choice is None else _of_choices(outputs.choice, f"{field}.choice"),
        "grammar": None if outputs.grammar is None else _of_lark(outputs.grammar, f"{field}.grammar"),
    }
    if not any(makes.values()):
        raise invalid(f"{field} must have one of {', '.join(makes)}, got none; add it, or leave {field} out", field)
    for name, make in makes.items():
        if make is not None:
            yield f"{field}.{name}", make


def _of_format(format: ResponseFormat, whitespace: str) -> Grammar:
    if format.type == "json_object":
        schema = _ANY_OBJECT if format.schema_ is None else format.schema_  # llama.cpp's server takes a schema here, too
        return _of_schema(schema, "response_format.schema", whitespace)()
    given = format.json_schema
    if given is None or given.schema_ is None:
        place = "response_format.json_schema" + ("" if given is None else ".schema")
        raise invalid(f"{place} is required, got nothing; add it to the request", place)
    return _of_schema(given.schema_, "response_format.json_schema.schema", whitespace)()


def _of_schema(schema: dict[str, Any] | bool | str, field: str, whitespace: str) -> _Make:
    def make() -> Grammar:
        try:
            given = json.loads(schema) if isinstance(schema, str) else schema
            return of_json_schema(constraining(given, field), field, whitespace)
        except UnsupportedSchema as error:
            raise invalid(str(error), error.path) from error
        except (ValueError, RecursionError) as error:
            raise invalid(f"{field} must be a JSON schema, as an object or as text; got {shown(schema)}", field) from error

    return make


def _of_regex(regex: str, field: str) -> _Make:
    return lambda: of_regex(regex, field)


def _of_choices(choices: list[str], field: str) -> _Make:
    return lambda: of_choices(choices, field)


def _of_lark(text: str, field: str) -> _Make:
    return lambda: lark_of(text, field)
