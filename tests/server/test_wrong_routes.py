"""A route that is not there is answered with those that are."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest

ROUTES = ("POST /v1/completions", "POST /v1/chat/completions", "POST /tokenize", "POST /detokenize", "GET /v1/models")
HTTP = httpx.Client(timeout=20)


@pytest.mark.parametrize(
    ("method", "path", "meant"),
    [
        ("POST", "/chat/completions", "POST /v1/chat/completions"),
        ("POST", "/completions", "POST /v1/completions"),
        ("GET", "/models", "GET /v1/models"),
        ("GET", "/v1/v1/models", "GET /v1/models"),
        ("POST", "/v1/chat/completions/chat/completions", "POST /v1/chat/completions"),
        ("POST", "/v1/chat/completion", "POST /v1/chat/completions"),
        ("POST", "/v1/completions/", "POST /v1/completions"),
        ("GET", "/health/", "GET /health"),
        ("POST", "/v1/tokenize", "POST /tokenize"),
        ("GET", "/v1/health", "GET /health"),
        ("POST", "/v1/embeddings", None),
        ("GET", "/index.html", None),
        ("PURGE", "/nothing", None),
        ("GET", "/%ff%00%0a", None),
        ("GET", "/" + "x" * 5000, None),
    ],
)
def test_404_names_the_routes(served: Any, method: str, path: str, meant: str | None) -> None:
    answer = HTTP.request(method, served.url + path)
    assert answer.status_code == 404
    error = answer.json()["error"]
    assert (error["type"], error["code"], error["param"]) == ("not_found_error", "unknown_url", None)
    assert all(route in error["message"] for route in ROUTES)
    assert error["message"].isprintable() and len(error["message"]) < 500
    assert (f"did you mean {meant}?" in error["message"]) if meant else ("did you mean" not in error["message"])


@pytest.mark.parametrize(("method", "path", "allowed"), [("GET", "/v1/completions", "POST"), ("POST", "/v1/models", "GET")])
def test_405_names_the_methods(served: Any, method: str, path: str, allowed: str) -> None:
    answer = HTTP.request(method, served.url + path, json={})
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
    assert f"{path} is asked with {allowed}, got {method}" in answer.json()["error"]["message"]


def test_a_client_without_v1_is_told_so(served: Any) -> None:
    client = openai.OpenAI(base_url=served.url, api_key="none", max_retries=0)
    with pytest.raises(openai.NotFoundError, match="did you mean POST /v1/chat/completions"):
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "Hi"}])
