"""Responses that are kept: gone on with, asked for again, deleted, and forgotten within bounds."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from runtime.server.errors import ApiError
from runtime.server.response_store import KeptResponse, ResponseStore
from tests.server.conftest import Served, running
from tests.server.speaking import HERMES_TEMPLATE, keyed

HTTP = httpx.Client(timeout=20)


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with running(speak=keyed, template=HERMES_TEMPLATE) as served:
        yield served


def ask(served: Served, **body: Any) -> dict[str, Any]:
    answer = HTTP.post(f"{served.url}/v1/responses", json={"temperature": 0} | body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def prompt_of(served: Served, messages: list[dict[str, Any]]) -> int:
    return int(HTTP.post(f"{served.url}/tokenize", json={"messages": messages}).json()["count"])


def url(served: Served, response: dict[str, Any]) -> str:
    return f"{served.url}/v1/responses/{response['id']}"


def test_a_conversation_goes_on(served: Served) -> None:
    first = ask(served, input="Hi", instructions="Be brief.")
    second = ask(served, input="emoji", previous_response_id=first["id"])
    assert second["previous_response_id"] == first["id"]
    chat = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello there."},
        {"role": "user", "content": "emoji"},
    ]
    # Instructions hold for one response.
    assert second["usage"]["input_tokens"] == prompt_of(served, chat)
    third = ask(served, input=[{"role": "user", "content": "count"}], previous_response_id=second["id"])
    chat += [{"role": "assistant", "content": "你好 😀!"}, {"role": "user", "content": "count"}]
    assert third["usage"]["input_tokens"] == prompt_of(served, chat)


def test_two_ways_on_from_one(served: Served) -> None:
    first = ask(served, input="Hi")
    one, other = (ask(served, input=text, previous_response_id=first["id"]) for text in ("count", "emoji"))
    assert one["output"][0]["content"] != other["output"][0]["content"]
    longer = ask(served, input="Hi", previous_response_id=one["id"])
    assert longer["usage"]["input_tokens"] > one["usage"]["input_tokens"]


def test_a_streamed_response_is_kept_too(served: Served) -> None:
    with served.client().responses.stream(model="tiny", input="Hi", temperature=0) as stream:
        final = stream.get_final_response()
    kept = HTTP.get(f"{served.url}/v1/responses/{final.id}").json()
    assert kept["output"][0]["content"][0]["text"] == "Hello there." and kept["status"] == "completed"
    assert ask(served, input="Hi", previous_response_id=final.id)["usage"]["input_tokens"] > final.usage.input_tokens  # type: ignore[union-attr]


def test_a_cut_response_is_kept_too(served: Served) -> None:
    cut = ask(served, input="count", max_output_tokens=3)
    assert HTTP.get(url(served, cut)).json() == cut
    assert ask(served, input="Hi", previous_response_id=cut["id"])["status"] == "completed"


def test_it_is_given_again_as_it_was(served: Served) -> None:
    response = ask(served, input="Hi", metadata={"run": "5"})
    assert HTTP.get(url(served, response)).json() == response


def test_deleted_is_gone(served: Served) -> None:
    response = ask(served, input="Hi")
    assert HTTP.delete(url(served, response)).json() == {"id": response["id"], "object": "response", "deleted": True}
    for method in ("GET", "DELETE"):
        answer = HTTP.request(method, url(served, response))
        assert answer.status_code == 404 and response["id"] in answer.json()["error"]["message"]
    answer = HTTP.post(f"{served.url}/v1/responses", json={"input": "Hi", "previous_response_id": response["id"]})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == ("previous_response_id", "previous_response_not_found")
    assert "send the whole conversation as input" in error["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_what_is_not_to_be_stored_is_not_kept(served: Served, stream: bool) -> None:
    kept = len(served.server.loading.app.state.service.responses)  # type: ignore[union-attr]
    body = {"input": "Hi", "store": False, "stream": stream}
    answer = HTTP.post(f"{served.url}/v1/responses", json=body)
    assert answer.status_code == 200
    assert len(served.server.loading.app.state.service.responses) == kept  # type: ignore[union-attr]


def test_what_has_not_ended_is_not_kept(served: Served) -> None:
    kept = len(served.server.loading.app.state.service.responses)  # type: ignore[union-attr]
    with httpx.stream("POST", f"{served.url}/v1/responses", json={"input": "count", "stream": True}, timeout=20) as answer:
        next(answer.iter_lines())
    assert HTTP.post(f"{served.url}/v1/responses", json={"input": "x" * 9000}).status_code == 400
    assert len(served.server.loading.app.state.service.responses) <= kept + 1  # type: ignore[union-attr]


@pytest.mark.parametrize("id", ["resp_0", "a%20b", "%F0%9F%98%80", "x" * 500])
def test_an_unknown_id(served: Served, id: str) -> None:
    answer = HTTP.get(f"{served.url}/v1/responses/{id}")
    assert answer.status_code == 404 and len(answer.text) < 700
    assert answer.json()["error"]["type"] == "not_found_error"


def test_an_old_stream_cannot_be_had_again(served: Served) -> None:
    response = ask(served, input="Hi")
    answer = HTTP.get(url(served, response), params={"stream": "true"})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "stream"


@pytest.mark.parametrize("stream", [False, True])
def test_another_clients_response_does_not_exist(run_server: Any, tmp_path: Path, stream: bool) -> None:
    digests = [f"{name}:{hashlib.sha256(name.encode()).hexdigest()}\n" for name in ("ann", "bob")]
    (tmp_path / "keys").write_text("".join(digests))
    with run_server(speak=keyed, template=HERMES_TEMPLATE, api_keys=tmp_path / "keys") as served:
        ann, bob = (httpx.Client(headers={"Authorization": f"Bearer {name}"}, timeout=20) for name in ("ann", "bob"))
        url = f"{served.url}/v1/responses"
        answer = ann.post(url, json={"input": "Hi", "stream": stream})
        id = re.findall(r"resp_[0-9a-f]{32}", answer.text)[0]
        assert ann.get(f"{url}/{id}").status_code == 200
        assert bob.get(f"{url}/{id}").status_code == bob.delete(f"{url}/{id}").status_code == 404
        assert bob.post(url, json={"input": "Hi", "previous_response_id": id}).status_code == 400
        assert ann.post(url, json={"input": "Hi", "previous_response_id": id}).status_code == 200
        assert ann.delete(f"{url}/{id}").status_code == 200


def kept(num_bytes: int) -> KeptResponse:
    return KeptResponse(b"x" * (num_bytes // 2), b"y" * (num_bytes - num_bytes // 2))


def test_the_count_is_bounded_and_the_last_used_stay() -> None:
    store = ResponseStore(max_num=3, max_bytes=1000)
    for id in "abc":
        store.put(id, kept(10))
    store.get("a")
    store.put("d", kept(10))
    assert len(store) == 3 and store.num_bytes == 30
    for id in "acd":
        store.get(id)
    with pytest.raises(ApiError, match="'b'") as caught:
        store.get("b", param="previous_response_id")
    assert caught.value.status_code == 400


def test_the_bytes_are_bounded() -> None:
    store = ResponseStore(max_num=100, max_bytes=1000)
    for i in range(50):
        store.put(str(i), kept(90))
        assert store.num_bytes == 90 * len(store) <= 1000
    assert len(store) == 11
    store.put("larger than all", kept(1001))
    assert len(store) == 11, "it drives nothing out"
    store.put("large", kept(1000))
    assert len(store) == 1
    store.delete("large")
    assert (len(store), store.num_bytes) == (0, 0)
    with pytest.raises(ApiError) as caught:
        store.delete("large")
    assert caught.value.status_code == 404


def test_none_are_kept_where_none_may_be() -> None:
    store = ResponseStore(max_num=0)
    store.put("a", kept(1))
    assert (len(store), store.num_bytes) == (0, 0)
