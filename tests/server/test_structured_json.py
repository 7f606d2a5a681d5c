"""Answers held to JSON schemas, over HTTP; what comes is judged by the jsonschema library."""

from __future__ import annotations

import json
from typing import Any

import httpx
import jsonschema
import openai
import pytest

from runtime.json_schema import FORMATS, UNSUPPORTED

HTTP = httpx.Client(timeout=30)
USER = [{"role": "user", "content": "Hi"}]
NAME = {"type": "string", "maxLength": 6}
AGE = {"type": "integer", "minimum": 0, "maximum": 150}
PERSON = {"type": "object", "properties": {"name": NAME, "age": AGE}, "required": ["name", "age"]}
PEOPLE = {"type": "array", "items": PERSON, "maxItems": 2}


def chat(served: Any, **fields: Any) -> httpx.Response:
    return HTTP.post(f"{served.url}/v1/chat/completions", json={"messages": USER, "max_tokens": 300, "seed": 1} | fields)


def content(answer: httpx.Response) -> tuple[str, str]:
    assert answer.status_code == 200, answer.text
    (choice,) = answer.json()["choices"]
    return choice["message"]["content"], choice["finish_reason"]


def refusal(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 400, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert len(error["message"]) < 600 and "\n" not in error["message"]
    return error


def validate(text: str, schema: Any) -> Any:
    value = json.loads(text)
    validator = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)
    validator.validate(value)
    return value


SCHEMAS: list[Any] = [
    PERSON,
    {"type": "object", "properties": {}},
    {"type": "object", "properties": {"a": NAME}, "additionalProperties": False},
    {"type": "object", "properties": {"a": {"type": "null"}, "b": {"type": "boolean"}}, "required": ["b"]},
    {"type": "object", "properties": {"a": PERSON, "b": PEOPLE}, "required": ["a", "b"]},
    {"type": "object", "additionalProperties": False, "minProperties": 2, "maxProperties": 2,
     "patternProperties": {"^[a-w]{1,3}$": {"type": "boolean"}}, "properties": {"x": {"type": "null"}}, "required": ["x"]},
    {"type": "object", "properties": {"a": NAME, "b": NAME}, "required": ["a"], "minProperties": 1, "maxProperties": 2},
    {"type": "integer", "minimum": -5, "maximum": 5},
    {"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 5},
    {"type": "integer", "multipleOf": 7, "minimum": 10, "maximum": 99},
    {"type": "number", "minimum": 0.5, "maximum": 1.5, "multipleOf": 0.25},
    {"type": "boolean"},
    {"type": "null"},
    {"type": "string", "minLength": 2, "maxLength": 4},
    {"type": "string", "pattern": "^[a-f]{2,4}-[0-9]{2}$"},
    {"type": "string", "pattern": "ab", "maxLength": 5},
    *({"type": "string", "format": name, "maxLength": 50} for name in sorted(FORMATS - {"uri", "email", "hostname"})),
    {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 9}, "minItems": 2, "maxItems": 4},
    {"type": "array", "prefixItems": [{"type": "null"}, {"type": "boolean"}], "items": False, "minItems": 2},
    {"enum": ["red", "green", 3, None, {"a": [1]}]},
    {"const": {"kind": "cat", "lives": 9}},
    {"type": ["boolean", "null"]},
    {"anyOf": [{"type": "boolean"}, PERSON]},
    {"oneOf": [{"type": "object", "properties": {"k": {"const": "a"}}, "required": ["k"]},
               {"type": "object", "properties": {"k": {"const": "b"}}, "required": ["k"]}]},
    {"allOf": [{"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]},
               {"type": "object", "properties": {"b": {"type": "null"}}, "required": ["b"]}], "maxProperties": 2},
    {"$defs": {"p": PERSON}, "type": "object", "properties": {"x": {"$ref": "#/$defs/p"}}, "required": ["x"]},
    {"definitions": {"p": PERSON}, "$ref": "#/definitions/p"},
    {"type": "object", "properties": {"é \"q\"\n": {"type": "boolean"}}, "required": ["é \"q\"\n"]},
    {"title": "T", "description": "d", "$schema": "https://json-schema.org/draft/2020-12/schema", "type": "null", "default": 1},
]  # fmt: skip


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: json.dumps(schema)[:60])
def test_answers_validate(served: Any, schema: Any) -> None:
    for seed in (1, 2):
        format = {"type": "json_schema", "json_schema": {"name": "form", "schema": schema, "strict": True}}
        text, reason = content(chat(served, response_format=format, seed=seed))
        assert reason == "stop", text
        validate(text, schema)


FIELDS: list[dict[str, Any]] = [
    {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": PERSON}}},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": PERSON, "strict": False}}},
    {"response_format": {"type": "json_object", "schema": PERSON}},
    {"structured_outputs": {"json": PERSON}},
    {"structured_outputs": {"json": json.dumps(PERSON), "regex": None, "disable_fallback": True}},
    {"guided_json": PERSON, "guided_decoding_backend": "xgrammar"},
    {"guided_json": json.dumps(PERSON)},
    {"json_schema": PERSON},
]


@pytest.mark.parametrize("fields", FIELDS, ids=lambda fields: json.dumps(fields)[:50])
def test_a_schema_may_come_in_every_field_for_it(served: Any, fields: dict[str, Any]) -> None:
    validate(content(chat(served, **fields))[0], PERSON)
    body = {"prompt": "Hi", "max_tokens": 300, "seed": 3} | fields
    (choice,) = HTTP.post(f"{served.url}/v1/completions", json=body).json()["choices"]
    validate(choice["text"], PERSON)


@pytest.mark.parametrize("field", [{"response_format": {"type": "json_object"}}, {"structured_outputs": {"json_object": True}}])
def test_any_object(served: Any, field: dict[str, Any]) -> None:
    # The model would recite for ever inside a string: it is let have no strings but empty ones.
    recited = {str(token): -100 for token in set(served.runner.recital)}
    text, reason = content(chat(served, logit_bias=recited, temperature=0.1, **field))
    assert text.startswith("{")
    if reason == "stop":
        assert isinstance(json.loads(text), dict)


@pytest.mark.parametrize("keyword", sorted(UNSUPPORTED))
def test_an_unsupported_keyword_is_refused_by_its_path(served: Any, keyword: str) -> None:
    value: Any = {"uniqueItems": True, "minContains": 1, "maxContains": 1}.get(keyword, {})
    schema = {"type": "object", "properties": {"a": {"type": "array", "items": {keyword: value}}}}
    format = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    error = refusal(chat(served, response_format=format))
    assert error["param"] == f"response_format.json_schema.schema.properties.a.items.{keyword}"
    assert error["message"].startswith(f"{error['param']} is not supported")


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ({"anyOf": [{"type": "null"}, {"not": {}}]}, "anyOf.1.not"),
        ({"$defs": {"a b": {"if": {}}}}, "$defs.'a b'.if"),
        ({"prefixItems": [{"contains": {}}]}, "prefixItems.0.contains"),
        ({"additionalProperties": {"uniqueItems": True}}, "additionalProperties.uniqueItems"),
        ({"patternProperties": {"^a": {"else": {}}}}, "patternProperties.'^a'.else"),
        ({"properties": {"a": {"format": "iri"}}}, "properties.a.format"),
        ({"properties": {"a": 3}}, "properties.a"),
        ({"items": {"properties": {"a": {}, "b": {}}, "required": ["a"], "minProperties": 2}}, "items.minProperties"),
        ({"properties": {"a": {}}, "additionalProperties": True, "maxProperties": 3}, "maxProperties"),
        ({"items": "x"}, "items"),
        ({"items": {"multipleOf": -1}}, "items.multipleOf"),
        ({"multipleOf": True}, "multipleOf"),
    ],
)
def test_the_path_leads_through_every_keyword_that_holds_schemas(served: Any, schema: Any, path: str) -> None:
    assert refusal(chat(served, guided_json=schema))["param"] == f"guided_json.{path}"


@pytest.mark.parametrize("schema", [{"uniqueItems": False, "type": "null"}, {"enum": [{"not": 1}]}, {"const": {"if": 1}}])
def test_what_only_looks_unsupported_passes(served: Any, schema: Any) -> None:
    validate(content(chat(served, guided_json=schema))[0], schema)


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "strin"}, "Invalid type: strin"),
        ({"type": "integer", "minimum": 5, "maximum": 3}, "minimum (5) is greater than maximum (3)"),
        ({"type": "string", "minLength": 3, "maxLength": 2}, "minLength (3) is greater than maxLength (2)"),
        ({"type": "string", "pattern": "(a"}, "unclosed group"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
        ({"$ref": "#"}, "no text that ends"),
        ({"$ref": "#/$defs/none"}, "/$defs/none"),
        ({"$ref": "https://example.org/schema"}, "not present"),
        ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, "oneOf"),
        ({"enum": []}, "Unsatisfiable"),
        (False, "Unsatisfiable"),
        ({"type": "array", "items": {"type": "string"}, "minItems": "a"}, "minItems"),
        ("{", "must be a JSON schema"),
        ("[]", "must be a schema"),
    ],
)
def test_a_schema_that_cannot_be_followed_is_one_clear_400(served: Any, schema: Any, words: str) -> None:
    error = refusal(chat(served, guided_json=schema))
    assert error["param"] == "guided_json" and error["message"].startswith("guided_json") and words in error["message"]


@pytest.mark.parametrize(
    ("format", "param"),
    [
        ({"type": "json_schema"}, "response_format.json_schema"),
        ({"type": "json_schema", "json_schema": {"name": "a"}}, "response_format.json_schema.schema"),
        ({"type": "json_schema", "json_schema": {"schema": [1]}}, "response_format.json_schema.schema"),
        ({"type": "xml"}, "response_format.type"),
        ({"type": 3}, "response_format.type"),
        ("json_object", "response_format"),
    ],
)
def test_a_malformed_format_is_refused_by_its_path(served: Any, format: Any, param: str) -> None:
    assert refusal(chat(served, response_format=format))["param"] == param


def test_whitespace_is_what_models_write_or_what_is_asked(served: Any) -> None:
    schema = {"type": "array", "items": {"enum": [1]}, "minItems": 3, "maxItems": 3}
    line_break = served.tokenizer.token_to_id("Ċ")
    assert line_break is not None
    bias = {str(line_break): 100, str(served.tokenizer.token_to_id("Ġ")): 100}
    spaced, _ = content(chat(served, guided_json=schema, logit_bias=bias, temperature=0, max_tokens=200))
    assert "\n" in spaced and json.loads(spaced) == [1, 1, 1]
    tight = {"json": schema, "disable_any_whitespace": True}
    assert content(chat(served, structured_outputs=tight, logit_bias=bias))[0] == "[1,1,1]"
    one_space = {"json": schema, "whitespace_pattern": "[ ]"}
    assert content(chat(served, structured_outputs=one_space, logit_bias=bias))[0].count(" ") >= 2


def test_the_official_client_parses_into_a_model(served: Any) -> None:
    from pydantic import BaseModel, Field

    class Pet(BaseModel):
        name: str = Field(max_length=5)
        legs: int = Field(ge=0, le=8)
        owner: str | None = Field(max_length=5)

    client: openai.OpenAI = served.client()
    answer = client.chat.completions.parse(model="tiny", messages=USER, response_format=Pet, seed=1)  # type: ignore[arg-type]
    assert isinstance(answer.choices[0].message.parsed, Pet)


def test_a_stream_brings_the_same_text(served: Any) -> None:
    whole, _ = content(chat(served, guided_json=PERSON))
    client: openai.OpenAI = served.client()
    chunks = client.chat.completions.create(
        model="tiny", messages=USER, stream=True, seed=1, max_tokens=300, extra_body={"guided_json": PERSON}  # type: ignore[arg-type]
    )  # fmt: skip
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole
