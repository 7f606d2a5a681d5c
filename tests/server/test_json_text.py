"""Responses made in pieces are those that are made at once."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from runtime.server.json_text import json_pieces
from runtime.server.protocol_chat import ChatCompletion
from runtime.server.protocol_completion import Completion
from runtime.server.protocol_generation import to_json
from tests.server.speaking import HERMES_TEMPLATE

SCORED = {"token": 'a"\n你', "logprob": -0.1, "bytes": [97]}
USAGE = {
    "prompt_tokens": 1,
    "completion_tokens": 2,
    "total_tokens": 3,
    "prompt_tokens_details": {"cached_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 0},
}
HEAD = {"id": "x", "created": 1, "model": "m", "system_fingerprint": "fp_1", "usage": USAGE}


@pytest.mark.parametrize("num_tokens", [0, 1, 5, 3000])
def test_pieces_join_to_what_pydantic_writes(num_tokens: int) -> None:
    content = [{**SCORED, "top_logprobs": [SCORED] * 2}] * num_tokens
    message = {"role": "assistant", "content": "a\u2028"}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": {"content": content}}
    lists = {"tokens": ["a\x00é"], "token_logprobs": [None], "top_logprobs": [{"a": -1e-30}], "text_offset": [0]}
    scores = {name: items * num_tokens for name, items in lists.items()}
    for response in (
        ChatCompletion.model_validate(HEAD | {"object": "chat.completion", "choices": [choice, choice | {"logprobs": None}]}),
        Completion.model_validate(
            HEAD
            | {"object": "text_completion", "choices": [{"index": 0, "text": "", "logprobs": scores, "finish_reason": None}]}
        ),
        Completion.model_validate(HEAD | {"object": "text_completion", "choices": []}),
    ):
        assert "".join(json_pieces(response)) == to_json(response)


def test_a_prompt_scored_token_by_token_is_answered_whole(run_server: Any) -> None:
    with run_server() as served:
        body = {"prompt": "a" * 300, "echo": True, "logprobs": 3, "max_tokens": 2, "temperature": 0}
        whole = httpx.post(f"{served.url}/v1/completions", json=body).json()["choices"][0]["logprobs"]
        events = httpx.post(f"{served.url}/v1/completions", json=body | {"stream": True}).text.split("\n\n")
        chunks = [json.loads(event.removeprefix("data: ")) for event in events if event and "[DONE]" not in event]
        for name, values in whole.items():
            assert [v for chunk in chunks for v in chunk["choices"][0]["logprobs"][name]] == values
        assert len(whole["tokens"]) == 303


def test_readers_that_end_lines_as_unicode_does_see_whole_events(run_server: Any) -> None:
    said = "a\u2028b\u2029c\x85d"
    user = {"messages": [{"role": "user", "content": "Go on"}], "max_tokens": 60}
    bodies = {"chat/completions": user, "messages": user, "responses": {"input": "Go on"}}
    with run_server(speak=lambda _: said, template=HERMES_TEMPLATE) as served:
        for path, body in bodies.items():
            with httpx.stream("POST", f"{served.url}/v1/{path}", json=body | {"stream": True}, timeout=20) as answer:
                lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: {")]
            deltas = "".join(_texts(json.loads(line)) for line in lines)
            assert deltas == said, path


def _texts(event: dict[str, Any]) -> str:
    """What an event adds to the text, in any of the three APIs."""
    if "choices" in event:
        return "".join(choice["delta"].get("content") or "" for choice in event["choices"])
    delta = event.get("delta", "")
    return delta.get("text", "") if isinstance(delta, dict) else delta
