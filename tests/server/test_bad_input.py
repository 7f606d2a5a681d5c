"""What is wrong with a request is said in one sentence, by field, rule and value; nothing a client sends gives a 5xx."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
import pytest

CHAT, COMPLETIONS, TOKENIZE, DETOKENIZE = "/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize"
USER = [{"role": "user", "content": "Hi"}]
HTTP = httpx.Client(timeout=20)
#: How pydantic and the standard library's parser speak.
RAW = re.compile(r"Input should|Field required|JSON decode error|Value error|validation error|Traceback|Extra inputs|\[type=")


def post(served: Any, path: str, body: Any, **headers: str) -> httpx.Response:
    content = body if isinstance(body, str | bytes) else json.dumps(body)
    return HTTP.post(served.url + path, content=content, headers={"content-type": "application/json"} | headers)


def refusal(answer: httpx.Response, status: int = 400) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    (error,) = answer.json().values()
    assert error.keys() == {"message", "type", "param", "code"}
    assert not RAW.search(error["message"]) and len(error["message"]) < 1000 and "\n" not in error["message"]
    return dict(error)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("", "must be a JSON object, got nothing; send one"),
        ("{", "send all of it"),
        ('{"prompt": "a",}', "trailing comma"),
        ("{'prompt': 'a'}", "column 2"),
        ('{"prompt": NaN}', "NaN, Infinity"),
        ('{"prompt": "a", "temperature": Infinity}', "NaN, Infinity"),
        ('{"prompt": "a", "temperature": -Infinity}', "numbers are finite"),
        ('{"prompt": "a", "seed": ' + "9" * 5000 + "}", "at most 4300 digits"),
        ('{"prompt": "a", "seed": -' + "9" * 5000 + "}", "at most 4300 digits"),
        ('{"prompt": ' + "[" * 5000 + "1" + "]" * 5000 + "}", "200 deep"),
        ('{"prompt": "a", "user": ' + '{"a":' * 5000 + "1" + "}" * 5001, "200 deep"),
        (b'{"prompt": "\xff"}', "UTF-8"),
        ('{"prompt": "a"}'.encode("utf-16"), "UTF-8"),
        ('{"prompt": "a\x00"}', "control character"),
        ("null", "must be an object, got null"),
        ("[1, 2]", "must be an object, got a list of 2"),
        ('"prompt"', "must be an object, got 'prompt'"),
        ("5", "must be an object, got 5"),
        ('{"prompt": "a"} {}', "trailing characters"),
    ],
)
def test_a_body_that_is_no_json_object(served: Any, body: str | bytes, words: str) -> None:
    for path in (COMPLETIONS, CHAT, TOKENIZE, DETOKENIZE):
        error = refusal(post(served, path, body))
        assert words in error["message"] and error["message"].startswith("the body must be"), error
        assert error["param"] is None


@pytest.mark.parametrize(
    "given", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "json", "text/\u00e9"]
)
def test_json_comes_as_json(served: Any, given: str) -> None:
    request = httpx.Request("POST", served.url + COMPLETIONS, content=b'{"prompt": "a"}')
    if given:
        request.headers["content-type"] = given
    message = refusal(HTTP.send(request))["message"]
    assert "must come as application/json" in message and "send the header Content-Type" in message


@pytest.mark.parametrize("given", ["application/json; charset=utf-8", "Application/JSON", "application/vnd.api+json"])
def test_every_spelling_of_json_is_taken(served: Any, given: str) -> None:
    body = b'\xef\xbb\xbf{"prompt": "a", "max_tokens": 1}'  # with a byte order mark, as some editors write it
    answer = HTTP.post(served.url + COMPLETIONS, content=body, headers={"content-type": given})
    assert answer.status_code == 200


SURROGATE = '"\\ud83d"'


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, '{"messages": [{"role": "user", "content": %s}]}'),
        (CHAT, '{"messages": [{"role": %s, "content": "a"}]}'),
        (CHAT, '{"messages": [{"role": "user", "content": [{"type": "text", "text": %s}]}]}'),
        (CHAT, '{"messages": [{"role": "user", "content": "a", "name": %s}]}'),
        (CHAT, '{"messages": [{"role": "user", "content": "a"}], "chat_template_kwargs": {"a": %s}}'),
        (CHAT, '{"messages": [{"role": "user", "content": "a"}], "chat_template_kwargs": {%s: 1}}'),
        (CHAT, '{"messages": [{"role": "user", "content": "a"}], "model": %s}'),
        (COMPLETIONS, '{"prompt": %s}'),
        (COMPLETIONS, '{"prompt": ["a", %s]}'),
        (COMPLETIONS, '{"prompt": "a", "stop": %s}'),
        (COMPLETIONS, '{"prompt": "a", "stop": ["b", %s]}'),
        (COMPLETIONS, '{"prompt": "a", "user": %s}'),
        (COMPLETIONS, '{"prompt": "a", "suffix": %s}'),
        (COMPLETIONS, '{"prompt": "a", "logit_bias": {%s: 1}}'),
        (COMPLETIONS, '{"prompt": "a", %s: 1}'),
        (TOKENIZE, '{"prompt": %s}'),
        (DETOKENIZE, '{"tokens": [%s]}'),
    ],
)
def test_half_of_a_surrogate_pair_anywhere(served: Any, path: str, body: str) -> None:
    for half in (SURROGATE, '"a\\udc00b"', '"\\ud83dx\\ude00"', '"\\ud83d\\ud83d\\ude00"'):
        assert "surrogate" in refusal(post(served, path, body % half))["message"]
    assert post(served, path, body % '"\\ud83d\\ude00"').status_code in (200, 400, 404)


@pytest.mark.parametrize("ids", [[-1], [2**70], [-(2**70)], [2**32], [5, -1], [[-1]], [[3], [2**70]], [300], [10**4000]])
def test_ids_that_no_vocabulary_has(served: Any, ids: list[Any]) -> None:
    refusal(post(served, COMPLETIONS, {"prompt": ids}))
    refusal(post(served, COMPLETIONS, {"prompt": ids, "echo": True, "max_tokens": 0, "logprobs": 1}))
    if isinstance(ids[0], int):
        refusal(post(served, COMPLETIONS, {"prompt": "a", "stop_token_ids": ids}))
        if ids != [300]:  # an id that could be is left out of the text, as ever
            refusal(post(served, DETOKENIZE, {"tokens": ids}))
    assert served.client().completions.create(model="tiny", prompt="a", max_tokens=1).choices, "the engine goes on"


@pytest.mark.parametrize(
    ("path", "body", "param", "words"),
    [
        (CHAT, {}, "messages", "is required, got nothing"),
        (COMPLETIONS, {}, "prompt", "is required"),
        (TOKENIZE, {}, "prompt", "is required"),
        (DETOKENIZE, {"tokens": [1, "a"]}, "tokens.1", "must be an integer, got 'a'"),
        (TOKENIZE, {"messages": [{"role": "user"}, {}]}, "messages.1.role", "is required"),
        (TOKENIZE, {"prompt": 5}, "prompt", "must be a string, got 5"),
        (CHAT, {"messages": [{"role": "user", "content": 5}]}, "messages.0.content", "must be a string or a list, got 5"),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": {}}]}]}, "messages.0.content.0.text", ""),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.content.0", "must have a text"),
        (CHAT, {"messages": "Hi"}, "messages", "must be a list, got 'Hi'"),
        (CHAT, {"messages": ["Hi"]}, "messages.0", "must be an object, got 'Hi'"),
        (CHAT, {"messages": USER, "logprobs": 5}, "logprobs", "true or false, got 5"),
        (CHAT, {"messages": USER, "stream_options": "usage"}, "stream_options", "an object"),
        (CHAT, {"messages": USER, "stream_options": {"include_usage": "x"}}, "stream_options.include_usage", "true or false"),
        (CHAT, {"messages": USER, "chat_template_kwargs": []}, "chat_template_kwargs", "an object, got a list of 0"),
        (CHAT, {"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "messages.0.tool_calls.0.function", "required"),
        (CHAT, {"messages": [{"role": "assistant", "function_call": {"name": "f"}}]}, "messages.0", "function_call"),
        (COMPLETIONS, {"prompt": {}}, "prompt", "must be a string or a list"),
        (COMPLETIONS, {"prompt": [1, "a"]}, "prompt.1", "must be an integer, got 'a'"),
        (COMPLETIONS, {"prompt": [True]}, "prompt.0", "got true"),
        (COMPLETIONS, {"prompt": [1.0]}, "prompt.0", "got 1.0"),
        (COMPLETIONS, {"prompt": [-1]}, "prompt.0", "greater than or equal to 0, got -1"),
        (COMPLETIONS, {"prompt": "a", "n": True}, "n", "an integer, got true"),
        (COMPLETIONS, {"prompt": "a", "temperature": False}, "temperature", "a number, got false"),
        (COMPLETIONS, {"prompt": "a", "temperature": "nan"}, "temperature", "a finite number, got 'nan'"),
        (COMPLETIONS, '{"prompt": "a", "temperature": 1e999}', "temperature", "a finite number"),
        (COMPLETIONS, '{"prompt": "a", "logit_bias": {"5": -1e999}}', "logit_bias.5", "a finite number"),
        (COMPLETIONS, {"prompt": "a", "logprobs": True}, "logprobs", "an integer, got true"),
        (COMPLETIONS, {"prompt": "a", "max_tokens": 1.5}, "max_tokens", "an integer, got 1.5"),
        (COMPLETIONS, {"prompt": "a", "max_tokens": "many"}, "max_tokens", "an integer, got 'many'"),
        (COMPLETIONS, {"prompt": "a", "top_k": 2**40}, "top_k", "less than or equal to"),
        (COMPLETIONS, {"prompt": "a", "min_tokens": 10**4000}, "min_tokens", "(4001 characters)"),
        (COMPLETIONS, {"prompt": "a", "max_tokens": 10**4000}, "max_tokens", "(4001 characters)"),
        (COMPLETIONS, {"prompt": "a", "logit_bias": {"x": 1}}, "logit_bias.x", "an integer, got 'x'"),
        (COMPLETIONS, {"prompt": "a", "logit_bias": {"-5": 1}}, "logit_bias.-5", "greater than or equal to 0"),
        (COMPLETIONS, {"prompt": "a", "stop": 5}, "stop", "a list, got 5"),
        (COMPLETIONS, {"prompt": "a", "repetition_penalty": 1e-300}, "repetition_penalty", "greater than or equal to 0.001"),
        (COMPLETIONS, {"prompt": "a", "repetition_penalty": 1e300}, "repetition_penalty", "less than or equal to 1000"),
    ],
)  # fmt: skip
def test_faults_have_path_rule_and_value(served: Any, path: str, body: Any, param: str, words: str) -> None:
    error = refusal(post(served, path, body))
    assert error["param"] == param
    assert words in error["message"] and param in error["message"], error


def test_what_clients_choose_is_shortened(served: Any) -> None:
    long = "x\n\x1b[31m" * 10_000
    for body in (
        {"prompt": long, "stop": {"a": long}},
        {"prompt": "a", "max_tokens": long},
        {"prompt": "a", "response_format": {"type": long}},
        {"prompt": "a", "logit_bias": {long: 1}},
        {"prompt": "a", "tools": [long]},
    ):
        refusal(post(served, COMPLETIONS, body))
    refusal(post(served, COMPLETIONS, {"prompt": "a", "model": long}), 404)


def test_what_a_template_says_is_cut(run_server: Any) -> None:
    with run_server(template="{{ raise_exception('no ' + messages[0].content) }}") as served:
        message = post(served, CHAT, {"messages": [{"role": "user", "content": "x" * 100_000}]}).json()["error"]["message"]
    assert "no xxx" in message and len(message) < 3000
