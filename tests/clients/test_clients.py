"""Client libraries as they are published, each in an environment of its own, against served models."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.clients.environments import ClientEnvironment, node, python

pytestmark = pytest.mark.slow

#: client -> how its environment is made
CLIENTS: dict[str, Callable[[], ClientEnvironment]] = {
    "openai": lambda: python("openai==3.57.0"),
    "anthropic": lambda: python("anthropic==2.14.0"),
    "litellm": lambda: python("litellm==1.110.2"),
    "langchain": lambda: python("langchain-openai==1.7.4"),
    "instructor": lambda: python("instructor==1.17.0"),
    "agents": lambda: python("openai-agents==0.24.0"),
    "ai": lambda: node("ai@7.0.173", "@ai-sdk/openai-compatible@3.0.92", "zod@4.6.7"),
}


@pytest.mark.parametrize(
    ("client", "script"),
    [
        ("openai", "openai_chat.py"),
        ("openai", "openai_responses.py"),
        ("anthropic", "anthropic_messages.py"),
        ("litellm", "litellm_chat.py"),
        ("langchain", "langchain_chat.py"),
        ("instructor", "instructor_chat.py"),
        ("agents", "agents_run.py"),
        ("ai", "ai_chat.mjs"),
    ],
)
def test_all_that_it_can_do(speaker: str, client: str, script: str) -> None:
    assert CLIENTS[client]().run(script, speaker, "tiny")["ok"]


@pytest.mark.parametrize(
    ("client", "way"),
    [
        ("openai", "openai_chat"),
        ("openai", "openai_responses"),
        ("anthropic", "anthropic"),
        ("litellm", "litellm"),
        ("langchain", "langchain"),
        ("agents", "agents"),
    ],
)
def test_a_real_model_knows_the_capital(smollm2: str, client: str, way: str) -> None:
    assert CLIENTS[client]().run("real_model.py", smollm2, "smollm2", way)["answers"]


def test_a_real_model_from_javascript(smollm2: str) -> None:
    answers = CLIENTS["ai"]().run("ai_chat.mjs", smollm2, "smollm2", "real")["answers"]
    assert len(answers) == 2 and all("Paris" in answer for answer in answers), answers


def test_a_real_model_fills_a_form(smollm2: str) -> None:
    """instructor: what a small model fills in need not be right, but it always fits."""
    assert CLIENTS["instructor"]().run("real_form.py", smollm2, "smollm2")["ok"]
