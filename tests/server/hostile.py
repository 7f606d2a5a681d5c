"""Requests that no server may take, made from a seed: what is wrong with each is of one kind, and known."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

USER = [{"role": "user", "content": "Hi"}]
CHAT, COMPLETIONS, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"
COUNT, TOKENIZE, DETOKENIZE = "/v1/messages/count_tokens", "/tokenize", "/detokenize"
#: a valid request of each route
VALID: dict[str, dict[str, Any]] = {
    CHAT: {"messages": USER, "max_tokens": 2},
    COMPLETIONS: {"prompt": "Hi", "max_tokens": 2},
    RESPONSES: {"input": "Hi", "max_output_tokens": 16},
    MESSAGES: {"messages": USER, "max_tokens": 2},
    COUNT: {"messages": USER},
    TOKENIZE: {"prompt": "Hi"},
    DETOKENIZE: {"tokens": [5]},
}
#: a template that refuses roles, and does as much work as a client's variables say
TEMPLATE = (
    "{% for m in messages %}{% if m.role not in ['user', 'assistant', 'system', 'tool'] %}"
    "{{ raise_exception('no such role: ' + m.role) }}{% endif %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% for i in range(loops | default(0)) %}{% for j in range(loops) %}{{ i }}{% endfor %}{% endfor %}"
    "{{ ('x' * (times | default(0))) | length }}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@dataclass(frozen=True)
class Hostile:
    kind: str
    path: str
    content: bytes


def hostile(num_requests: int, seed: int) -> Iterator[Hostile]:
    """As many of each kind."""
    rng = random.Random(seed)
    for index in range(num_requests):
        kind = list(KINDS)[index % len(KINDS)]
        path, content = KINDS[kind](rng)
        yield Hostile(kind, path, content if isinstance(content, bytes) else json.dumps(content).encode())


def _any_route(rng: random.Random) -> tuple[str, dict[str, Any]]:
    path = rng.choice(list(VALID))
    return path, dict(VALID[path])


_NO_VALUES = [
    b"NaN", b"-Infinity", b"'a'", b"None", b"\\x41", b"01", b"1.", b".5", b"+1", b"0x10", b"[1,]", b"1e", b"tru", b'"\\ud800"',
    b'"a\nb"', b'"\\q"', b'"\\u12"', b"9" * 4301, b"[" * 201 + b"]" * 201, b"[" * 90_000, b'{"a":' * 300 + b"1" + b"}" * 300,
    b"{1: 2}", b'{"a" 1}', b'{"a"}', b"", b"/* */ 1", b"\xa0 1",
]  # fmt: skip


def _broken_text(rng: random.Random) -> tuple[str, bytes]:
    path, body = _any_route(rng)
    text = json.dumps(body | {"user": "".join(rng.choices("abc\u00e9\u4f60", k=9))}, ensure_ascii=False).encode()
    inside = text.index(b'"user": "') + len(b'"user": "')
    return path, rng.choice(
        [
            text[: rng.randrange(1, len(text))],
            text[:inside]
            + rng.choice([b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"\x00", b"\x1f"])
            + text[inside:],
            text[:-1] + b', "extra": ' + rng.choice(_NO_VALUES) + b"}",
            text + rng.choice([b"}", b"{}", b",", b"x", b"\x00", text]),
            text.decode().encode(rng.choice(["utf-16", "utf-32"])),
            rng.randbytes(rng.randrange(1, 200)).replace(b"{", b""),
            json.dumps(rng.choice([None, True, 5, "text", [], [body], [[]]])).encode(),
        ]
    )


#: of no field of these: each wants a string, a list or an object of its own form
_WRONG: list[Any] = [5, True, -1.5, {"": {}}, [None], [[[]]], [{"a": []}], 10**400]


def _wrong_type(rng: random.Random) -> tuple[str, Any]:
    path, body = _any_route(rng)
    names = [name for name in body if name in ("messages", "prompt", "input", "tokens")]
    fields = [*names, "model"]
    if path in (CHAT, COMPLETIONS):
        fields += ["stop", "logit_bias", "stop_token_ids"]
    if path in (CHAT, MESSAGES, RESPONSES, COUNT):
        fields += ["tools"]
    return path, body | {rng.choice(fields): rng.choice(_WRONG)}


def _out_of_range(rng: random.Random) -> tuple[str, Any]:
    numbers: dict[str, list[Any]] = {
        "n": [0, -1, 129, 10**30, 1.5, "1e"],
        "max_tokens": [-1, -(2**63), 0.5, "many", 10**400],
        "temperature": [-1, -5e-324, "hot", 1e999, 10**400],
        "top_p": [0, -0.1, 1.1, 2**63, "x"],
        "top_k": [2**31, 2**64, 0.5],
        "min_p": [-0.1, 1.1, 2**63],
        "presence_penalty": [-2.1, 2.1, 1e300],
        "frequency_penalty": [-2.1, 2.1, 1e300],
        "repetition_penalty": [0, -1, 1e-300, 1e300],
        "seed": ["x", 0.5, [], {}],
        "min_tokens": [2**31, 2**70, -1, 3],
        "truncate_prompt_tokens": [0, -2, 0.5],
        "logprobs": [-1, 21, 10**9, 0.5],
    }
    path = rng.choice([CHAT, COMPLETIONS])
    name = rng.choice([name for name in numbers if not (path == CHAT and name == "logprobs")])
    return path, json.dumps(VALID[path] | {name: rng.choice(numbers[name])}).replace("Infinity", "1e999").encode()


def _token_ids(rng: random.Random) -> tuple[str, Any]:
    wrong = rng.choice([-1, -(2**31), 2**31, 2**32, 2**63, 2**64, 2**70, -(2**70), 10**400, 1.5, "5", True, None, {}, [[1]]])
    ids: list[Any] = [rng.randrange(200) for _ in range(rng.randrange(1, 30))]
    path = rng.choice([CHAT, COMPLETIONS])
    match rng.choice(["tokens", "prompt", "unknown", "prompts", "stop_token_ids", "logit_bias"]):
        case "tokens":
            return DETOKENIZE, {"tokens": _with(rng, ids, wrong)}
        case "prompt":
            return COMPLETIONS, VALID[COMPLETIONS] | {"prompt": _with(rng, ids, wrong)}
        case "unknown":
            return COMPLETIONS, VALID[COMPLETIONS] | {"prompt": _with(rng, ids, 300 + rng.randrange(10**6))}
        case "prompts":
            return COMPLETIONS, VALID[COMPLETIONS] | {"prompt": [ids, _with(rng, ids, wrong)]}
        case "stop_token_ids":
            return path, VALID[path] | {"stop_token_ids": _with(rng, ids, wrong)}
        case _:
            return path, VALID[path] | {"logit_bias": {str(rng.choice([-1, 2**31, 2**70, "x", "", 1.5])): 1}}


def _with(rng: random.Random, ids: list[Any], wrong: object) -> list[Any]:
    place = rng.randrange(len(ids) + 1)
    return [*ids[:place], wrong, *ids[place:]]


_SCHEMAS: list[Any] = [
    {"type": "wizard"}, {"type": 5}, {"type": []}, {"type": ["string", "wizard"]}, {"$ref": "#/nowhere"}, {"$ref": 5},
    {"$ref": "http://example.com/schema.json"}, {"properties": []}, {"properties": {"a": 5}}, {"items": 5}, {"items": "x"},
    {"anyOf": []}, {"anyOf": 5}, {"allOf": ["x"]}, {"oneOf": {}}, {"enum": []}, {"enum": 5}, {"required": 5}, {"required": [5]},
    {"type": "string", "pattern": "("}, {"type": "string", "pattern": "[z-a]"}, {"type": "string", "pattern": 5},
    {"type": "string", "pattern": "(?=a)b"}, {"type": "string", "pattern": "(a)\\1"}, {"type": "string", "minLength": "x"},
    {"type": "string", "minLength": -1}, {"type": "string", "minLength": 5, "maxLength": 3}, {"format": "wizard"},
    {"type": "array", "minItems": 3, "maxItems": 1, "items": {"type": "null"}}, {"type": "array", "minItems": -1},
    {"type": "integer", "minimum": 5, "maximum": 3}, {"type": "integer", "minimum": "x"}, {"type": "number", "multipleOf": 0},
    {"not": {}}, {"if": {}, "then": {}}, {"uniqueItems": True}, {"contains": {}},
    {"propertyNames": {}}, {"dependentRequired": {}}, {"unevaluatedProperties": False}, {"$dynamicRef": "#a"},
    {"type": "object", "required": ["a"], "additionalProperties": False}, {"patternProperties": {"(": {}}}, False, 5, "x", [],
]  # fmt: skip


def _schema(rng: random.Random) -> tuple[str, Any]:
    schema: Any = rng.choice(_SCHEMAS)
    if isinstance(schema, dict):
        for _ in range(rng.randrange(0, 6)):
            schema = rng.choice(
                [
                    {"type": "object", "properties": {"a": schema}, "required": ["a"]},
                    {"type": "array", "items": schema, "minItems": 1},
                    {"type": "array", "prefixItems": [schema], "minItems": 1},
                    {"allOf": [schema]},
                ]
            )
    kind = rng.choice(["format", "structured", "guided", "responses"])
    path = rng.choice([CHAT, COMPLETIONS])
    if kind == "format":
        return path, VALID[path] | {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}}
    if kind == "structured":
        return path, VALID[path] | {"structured_outputs": {"json": schema}}
    if kind == "guided":
        return path, VALID[path] | {"guided_json": schema}
    return RESPONSES, VALID[RESPONSES] | {"text": {"format": {"type": "json_schema", "name": "a", "schema": schema}}}


def _grammar(rng: random.Random) -> tuple[str, Any]:
    path = rng.choice([CHAT, COMPLETIONS])
    wrong: list[dict[str, Any]] = [
        *({"guided_regex": regex} for regex in ("(", "[z-a]", "a{2,1}", "(?=x)", "(a)\\1", "*", "\\", "[", "(?P<", 5, [])),
        *(
            {"guided_grammar": grammar}
            for grammar in ("start: (", "begin: 'a'", "start: nowhere", "%import x", "start: /(/", 5)
        ),
        *({"guided_choice": choices} for choices in ([], "a", [1], [None], {}, [[]])),
        {"guided_choice": ["a"], "guided_regex": "a"},
        {"response_format": {"type": "json_object"}, "structured_outputs": {"choice": ["a"]}},
        {"response_format": {"type": "wizard"}},
        {"response_format": {"type": "json_schema"}},
        {"response_format": {"type": "json_schema", "json_schema": {}}},
        {"structured_outputs": {}},
        {"structured_outputs": {"json": {}, "regex": "a"}},
        {"structured_outputs": {"structural_tag": {}}},
    ]
    return path, VALID[path] | rng.choice(wrong)


def _tool(rng: random.Random) -> tuple[str, Any]:
    good = {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}}
    tool = {"type": "function", "function": good}
    bad_functions: list[Any] = [
        {}, 5, None, [], {"name": ""}, {"name": 5}, {"name": "a b"}, {"name": "\u00e9"}, {"name": "x" * 300}, {"name": None},
        good | {"parameters": 5}, good | {"parameters": []}, good | {"parameters": "x"}, good | {"description": 5},
    ]  # fmt: skip
    wrong: list[dict[str, Any]] = [
        *({"tools": [{"type": "function", "function": function}]} for function in bad_functions),
        *({"tools": tools} for tools in (5, "x", {}, [5], [None], [[]], [{}], [{"type": "function"}], [{"type": "wizard"}])),
        {"tools": [tool, tool]},
        {"tools": [tool], "tool_choice": {"type": "function", "function": {"name": "g"}}},
        {"tools": [tool], "tool_choice": "sometimes"},
        {"tools": [tool], "tool_choice": 5},
        {"tools": [tool], "tool_choice": {}},
        {"tool_choice": "required"},
        {"tools": [], "tool_choice": "required"},
        *({"messages": [*USER, {"role": "assistant", "tool_calls": calls}]} for calls in (
            5, [5], [{}], [{"id": "a"}], [{"id": "a", "type": "function", "function": {"name": 5, "arguments": "{}"}}],
        )),
    ]  # fmt: skip
    return CHAT, VALID[CHAT] | rng.choice(wrong)


def _template(rng: random.Random) -> tuple[str, Any]:
    path = rng.choice([CHAT, TOKENIZE])
    body = VALID[CHAT] if path == CHAT else {"messages": USER}
    wrong: list[dict[str, Any]] = [
        {"chat_template": "{{ 7 * 7 }}"},
        {"chat_template": "{% for i in range(10**9) %}{% endfor %}"},
        {"chat_template": "{{ ''.__class__.__mro__ }}"},
        {"chat_template_kwargs": []},
        {"chat_template_kwargs": "x"},
        {"chat_template_kwargs": {"loops": 10**5}},
        {"chat_template_kwargs": {"loops": 10**30}},
        {"chat_template_kwargs": {"loops": "x"}},
        {"chat_template_kwargs": {"times": 10**9}},
        {"chat_template_kwargs": {"times": 10**30}},
        {"messages": [{"role": rng.choice(["wizard", "", "x" * 10**5, "{{ 7 }}"]), "content": "a"}]},
        {"messages": []},
        {"messages": [{"content": "a"}]},
        {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]},
        {"messages": [{"role": "user", "content": [5]}]},
        {"continue_final_message": True, "add_generation_prompt": True},
    ]
    return path, body | rng.choice(wrong)


KINDS: dict[str, Callable[[random.Random], tuple[str, Any]]] = {
    "text": _broken_text,
    "type": _wrong_type,
    "range": _out_of_range,
    "token ids": _token_ids,
    "schema": _schema,
    "grammar": _grammar,
    "tool": _tool,
    "template": _template,
}
