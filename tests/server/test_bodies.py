"""Bodies of every size and shape: refused before they cost anything, or dealt with while everybody else is served."""

from __future__ import annotations

import json
import socket
import time
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from runtime.prompts import Prompts
from runtime.server import bodies
from runtime.server.bodies import MAX_NUM_PARTS, MAX_NUM_VALUES, count, parse
from runtime.server.connections import TimedProtocol
from runtime.server.errors import ApiError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=5),
    max_leaves=30,
)


def parts_of(value: object) -> int:
    """Strings, lists and objects, keys among them."""
    if isinstance(value, dict):
        return 1 + len(value) + sum(parts_of(item) for item in value.values())
    if isinstance(value, list):
        return 1 + sum(parts_of(item) for item in value)
    return int(isinstance(value, str))


def leaves_of(value: object) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 1 if inner is None else sum(leaves_of(item) for item in inner)


@given(value=VALUES, ascii_only=st.booleans(), indent=st.sampled_from([None, 1]))
def test_parts_are_counted_as_a_parser_finds_them(value: object, ascii_only: bool, indent: int | None) -> None:
    num_parts, num_values = count(json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode())
    assert num_parts == parts_of(value)
    assert num_values >= leaves_of(value) - 1


@given(content=st.binary(max_size=60) | st.text('{}[],:"\\a', max_size=60).map(str.encode))
def test_whatever_is_no_json_can_be_counted(content: bytes) -> None:
    num_parts, num_values = count(content)
    assert 0 <= num_parts <= num_values


@pytest.mark.parametrize(
    "content",
    [
        b'"' + b'\\"' * 500_000,
        b'"' + b"\\" * 1_000_001,
        b'{"' * 300_000,
        b'"",' * 300_000,
        b"[" * 1_000_000,
        b'"' + b"\\u0041" * 160_000 + b'"',
        b"," * 1_000_000,
    ],
)
def test_counting_is_quick_on_every_text(content: bytes) -> None:
    begin_s = time.process_time()
    count(content)
    assert time.process_time() - begin_s < 0.3


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("completions", {"prompt": "a", "stop": ["ab"] * 100_000}, "at most 32768 strings"),
        ("completions", {"prompt": "a", "stop": ["ab"] * 33}, "at most 32 items"),
        ("completions", {"prompt": "a", "stop": "a" * 257}, "at most 256 characters"),
        ("completions", {"prompt": [1] * 300_000}, "262144 values"),
        ("completions", {"prompt": [[1]] * 30_000}, "sequences here, got 30000 prompts"),
        ("completions", {"prompt": "a", "logit_bias": {str(i): 1 for i in range(1025)}}, "at most 1024 items"),
        ("completions", {"prompt": "a", "stop_token_ids": list(range(1025))}, "at most 1024 items"),
        ("completions", {"prompt": "a" * 100_000}, "512 tokens, got at least 7693"),
        ("chat/completions", {"messages": [{"role": "user", "content": ""}] * 600}, "512 tokens, got at least 600"),
        ("chat/completions", {"messages": [{"role": "user", "content": "a"}] * 20_000}, "at most 32768 strings"),
        ("chat/completions", {"messages": [{"role": "user", "content": "a" * 100_000}]}, "512 tokens, got at least"),
    ],
)
def test_what_is_too_much_is_400_before_any_work(
    served: Any, monkeypatch: pytest.MonkeyPatch, path: str, body: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr(Prompts, "encode", lambda *_: pytest.fail("nothing of it should be encoded"))
    answer = httpx.post(f"{served.url}/v1/{path}", json=body)
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b'{"a":' * 20_000, b'{"prompt": "a", "x": ' + b"[" * 30_000 + b"]" * 30_000 + b"}"]
)
def test_nesting_without_end_is_400(served: Any, content: bytes) -> None:
    assert httpx.post(f"{served.url}/v1/completions", content=content).status_code == 400


def test_a_long_prompt_that_is_to_be_cut_is_cut(served: Any) -> None:
    body = {"prompt": "a" * 100_000, "truncate_prompt_tokens": 7, "max_tokens": 1}
    assert httpx.post(f"{served.url}/v1/completions", json=body).json()["usage"]["prompt_tokens"] == 7


def test_a_body_far_beyond_any_prompt_is_413_from_its_length(served: Any) -> None:
    """Nothing of it is sent."""
    with socket.create_connection(("127.0.0.1", int(served.url.rpartition(":")[2]))) as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 15000000\r\n\r\n")
        connection.settimeout(5)
        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("head", [b"Content-Length: 15000000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\ne4e1c0\r\n"])
def test_a_refusal_reaches_a_client_that_sends_all_before_it_reads(served: Any, head: bytes) -> None:
    """A server that closes with bytes unread resets the connection, and the answer is lost."""
    with socket.create_connection(("127.0.0.1", int(served.url.rpartition(":")[2]))) as connection:
        connection.settimeout(20)
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n" + head)
        time.sleep(0.2)
        for _ in range(15):
            connection.sendall(b" " * 1_000_000)
        if b"chunked" in head:
            connection.sendall(b"\r\n0\r\n\r\n")
        answer = b""
        while chunk := connection.recv(4096):
            answer += chunk
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert answer.endswith(b"}")


@pytest.mark.parametrize("head", [b"Content-Length: 100\r\n\r\n{", b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"])
def test_a_body_without_an_end_is_408(run_server: Any, head: bytes) -> None:
    with run_server(body_timeout_s=0.3) as served:
        with socket.create_connection(("127.0.0.1", int(served.url.rpartition(":")[2]))) as connection:
            connection.settimeout(5)
            connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n" + head)
            answer = b""
            while chunk := connection.recv(4096):  # the server closes the connection
                answer += chunk
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"whole within 0.3 s; of this one 1 bytes had come" in answer
        # and a stream that has its body may take its time
        with served.client().completions.create(model="tiny", prompt="a", max_tokens=3, stream=True) as stream:
            assert len(list(stream)) >= 1


WHOLE = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize("sent", [[b""], [b"GET /hea"], [WHOLE, WHOLE[:20]]])
def test_a_request_without_an_end_is_closed(run_server: Any, monkeypatch: pytest.MonkeyPatch, sent: list[bytes]) -> None:
    monkeypatch.setattr(TimedProtocol, "headers_timeout_s", 0.3)
    with run_server(runner_options={"step_time_s": 0.01}) as served:
        with socket.create_connection(("127.0.0.1", int(served.url.rpartition(":")[2]))) as connection:
            connection.settimeout(4)  # less than the five seconds of an idle connection
            answer = b""
            for part in sent:
                connection.sendall(part)
                if part == WHOLE:
                    answer += connection.recv(4096)
            while chunk := connection.recv(4096):
                answer += chunk
        assert answer.count(b"HTTP/1.1 200 ") == sent.count(WHOLE)
        # and one whose answer takes longer stays open
        body = {"prompt": "a", "max_tokens": 60, "temperature": 0}
        assert httpx.post(f"{served.url}/v1/completions", json=body).json()["usage"]["completion_tokens"] == 60


def test_bodies_that_have_not_been_parsed_are_bounded_together(
    run_server: Any, wait: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "_MAX_BYTES_HELD", 1000)
    with run_server() as served, ExitStack() as unfinished:
        held = served.server.loading.app.state.bodies
        for _ in range(2):
            connection = socket.create_connection(("127.0.0.1", int(served.url.rpartition(":")[2])))
            unfinished.enter_context(connection)
            connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 600\r\n\r\n" + b" " * 450)
        wait(lambda: held.num_bytes_held == 900)
        answer = httpx.post(f"{served.url}/v1/completions", json={"prompt": "a" * 200})
        assert answer.status_code == 429 and answer.json()["error"]["code"] == "bodies"
        assert httpx.post(f"{served.url}/v1/completions", json={"prompt": "a"}).status_code == 200
        unfinished.close()
        wait(lambda: held.num_bytes_held == 0)
        assert httpx.post(f"{served.url}/v1/completions", json={"prompt": "a" * 200}).status_code == 200


def test_limits_are_told_to_who_reads_the_schema(served: Any) -> None:
    schemas = httpx.get(f"{served.url}/openapi.json").json()
    assert schemas["paths"]["/v1/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert schemas["components"]["schemas"]["CompletionBody"]["properties"]["stop_token_ids"]["anyOf"][0]["maxItems"] == 1024


def test_the_limits_of_parsing_are_what_is_refused() -> None:
    adapter = TypeAdapter(object)
    parse(b"[" + b'"",' * (MAX_NUM_PARTS - 2) + b'""]', adapter)
    parse(b"[" + b"1," * (MAX_NUM_VALUES - 2) + b"1]", adapter)
    for content in (b"[" + b'"",' * MAX_NUM_PARTS + b'""]', b"[" + b"1," * MAX_NUM_VALUES + b"1]"):
        with pytest.raises(ApiError, match="send it in parts"):
            parse(content, adapter)
