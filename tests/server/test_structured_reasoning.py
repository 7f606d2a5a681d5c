"""A budget of reasoning, and answers held to a form behind it; over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.server.conftest import Served, running
from tests.server.speaking import HERMES_TEMPLATE

HTTP = httpx.Client(timeout=30)
THOUGHT = "abcdefghij" * 5


@pytest.fixture(scope="module")
def thinking() -> Iterator[Served]:
    """A model that thinks 50 tokens before it says yes."""
    with running(speak=lambda prompt: f"<think>{THOUGHT}</think>yes", template=HERMES_TEMPLATE) as served:
        yield served


def ask(served: Served, **fields: Any) -> dict[str, Any]:
    body = {"messages": [{"role": "user", "content": "Hi"}], "temperature": 0, "max_tokens": 200} | fields
    answer = HTTP.post(f"{served.url}/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    (choice,) = answer.json()["choices"]
    message: dict[str, Any] = choice["message"]
    return message


def test_without_a_budget_it_thinks_to_the_end(thinking: Served) -> None:
    for fields in ({}, {"thinking_token_budget": -1}, {"thinking_token_budget": 1000}):
        message = ask(thinking, **fields)
        assert (message["reasoning_content"], message["content"]) == (THOUGHT, "yes")


@pytest.mark.parametrize("budget", [1, 7])
def test_a_budget_ends_the_thoughts(thinking: Served, budget: int) -> None:
    assert ask(thinking, thinking_token_budget=budget)["reasoning_content"] == THOUGHT[:budget]


def test_a_form_is_for_what_comes_behind_the_thoughts(thinking: Served) -> None:
    message = ask(thinking, guided_choice=["maybe", "no"])
    assert message["reasoning_content"] == THOUGHT and message["content"] in ("maybe", "no")


def test_a_form_and_a_budget_together(thinking: Served) -> None:
    message = ask(thinking, guided_choice=["maybe", "no"], thinking_token_budget=4)
    assert message["reasoning_content"] == THOUGHT[:4] and message["content"] in ("maybe", "no")


@pytest.mark.parametrize("budget", [-2, "many", 1.5, True])
def test_what_is_no_budget_is_refused(thinking: Served, budget: object) -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}], "thinking_token_budget": budget}
    error = HTTP.post(f"{thinking.url}/v1/chat/completions", json=body).json()["error"]
    assert error["param"] == "thinking_token_budget"
