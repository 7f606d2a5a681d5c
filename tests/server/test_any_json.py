"""No JSON, of any type in any field of any route, gives a 5xx, stops the engine or keeps the server from answering."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.server.conftest import limits
from tests.server.watching import watching_health

MAX_ANSWER_S = 10.0
MAX_HEALTH_S = 0.2
NUM_CASES = 5000
ROOT = Path(__file__).parents[2]
_SERVER = """
import sys
from tests.server.conftest import limits, running
with running(runner_options=limits(max_model_len=256)) as served:
    print(served.url, flush=True)
    sys.stdin.read()
"""
#: A valid request of each route, with small answers.
REQUESTS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2},
    "/v1/completions": {"prompt": "Hi", "max_tokens": 2},
    "/tokenize": {"prompt": "Hi"},
    "/detokenize": {"tokens": [5]},
    "/v1/responses": {"input": "Hi", "max_output_tokens": 16},
    "/v1/messages": {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2},
    "/v1/messages/count_tokens": {"messages": [{"role": "user", "content": "Hi"}]},
}

#: Halves of surrogate pairs, controls and numbers beyond 64 bits among them; NaN and Infinity as Python writes them.
texts = st.text(st.characters(), max_size=8)
numbers = st.integers() | st.floats() | st.sampled_from([-1, 0, 1, 2**31, 2**63, 2**64, -(2**70), 10**400, 1e308, 5e-324])
scalars = st.none() | st.booleans() | numbers | texts
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=6
)


@pytest.fixture(scope="module")
def small(run_server: Any) -> Iterator[Any]:
    """A context of 256, and one client whose connections stay open."""
    with run_server(runner_options=limits(max_model_len=256)) as served, httpx.Client(timeout=MAX_ANSWER_S) as client:
        served.http = client
        yield served


def property_names(schema: dict[str, Any], components: dict[str, Any]) -> Iterator[str]:
    """Of an OpenAPI schema: its properties and those of what it refers to."""
    if "$ref" in schema:
        yield from property_names(components[schema["$ref"].rsplit("/", 1)[1]], components)
    for part in schema.get("anyOf", []) + schema.get("oneOf", []):
        yield from property_names(part, components)
    yield from schema.get("properties", {})


@st.composite
def bodies(draw: st.DrawFn, fields: dict[str, list[str]]) -> tuple[str, str]:
    """A route and the text of a body: a valid one of which some fields, known or not, hold any JSON; or any JSON at all."""
    path = draw(st.sampled_from(sorted(REQUESTS)))
    if draw(st.integers(0, 9)) == 0:
        return path, json.dumps(draw(values))
    names = st.sampled_from(fields[path]) | texts
    body = REQUESTS[path] | draw(st.dictionaries(names, values, min_size=1, max_size=3))
    if path.endswith("chat/completions") and draw(st.booleans()):
        message = {"role": "user", "content": "Hi"} | draw(
            st.dictionaries(st.sampled_from(["content", "role", "name"]), values)
        )
        body = body | {"messages": [message]}
    return path, json.dumps(body)


def check(served: Any, answer: httpx.Response) -> None:
    assert answer.status_code < 500, (answer.request.content[:500], answer.text[:500])
    if answer.status_code >= 400:
        message = answer.json()["error"]["message"]
        assert "Input should" not in message and "Field required" not in message and len(message) < 3000
    else:
        assert not re.search(r'"error": ?\{', answer.text), answer.text[:500]
    assert not served.server.service.engine.broken


def test_any_json_in_any_field(small: Any) -> None:
    openapi = small.http.get(f"{small.url}/openapi.json").json()
    fields = {
        path: list(
            property_names(
                openapi["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"],
                openapi["components"]["schemas"],
            )
        )
        for path in REQUESTS
    }
    assert {"temperature", "logit_bias", "messages"} <= set(fields["/v1/chat/completions"])
    assert {"prompt", "messages"} <= set(fields["/tokenize"])

    @settings(
        max_examples=150, derandomize=True, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(bodies(fields))
    def run(request: tuple[str, str]) -> None:
        path, body = request
        check(small, small.http.post(small.url + path, content=body, headers={"content-type": "application/json"}))

    run()
    answer = small.http.post(f"{small.url}/v1/completions", json=REQUESTS["/v1/completions"])
    assert answer.status_code == 200, "the engine goes on"


def started(program: str, *arguments: str) -> subprocess.Popen[str]:
    """Python in a process of its own, which making up requests here does not keep waiting; it ends when its input does."""
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


@pytest.mark.slow
@pytest.mark.alone
def test_schemathesis_over_all_routes() -> None:
    schemathesis = pytest.importorskip("schemathesis")
    times_s: list[float] = []
    with started(_SERVER) as server:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
        operations = [found.ok() for found in schema.get_all_operations()]
        assert {operation.path for operation in operations} >= REQUESTS.keys() | {"/v1/models", "/v1/models/{name}", "/health"}
        with watching_health(url) as health_s:
            for operation in operations:
                # A route without parameters has few different requests, and gets no more than these.
                @settings(
                    max_examples=NUM_CASES // len(REQUESTS), derandomize=True, database=None,
                    phases=[Phase.generate], suppress_health_check=list(HealthCheck),
                )  # fmt: skip
                @given(operation.as_strategy())
                def run(case: Any) -> None:
                    start_s = time.monotonic()
                    answer = case.call(timeout=MAX_ANSWER_S)
                    times_s.append(time.monotonic() - start_s)
                    assert answer.status_code < 500, (answer.request.body, answer.text)

                run()
        server.communicate(timeout=30)
    print(f"{len(times_s)} cases, the slowest in {max(times_s):.2f} s; the slowest /health {max(health_s):.3f} s")
    assert len(times_s) >= NUM_CASES
    assert max(times_s) < MAX_ANSWER_S
    assert max(health_s) < MAX_HEALTH_S
