"""What the tests of tools and reasoning ask with, and how they put streams together."""

from __future__ import annotations

import json
from typing import Any

import httpx
from openai.lib.streaming._deltas import accumulate_delta

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
TIME = {"type": "function", "function": {"name": "get_time", "description": "The time"}}
USER = {"role": "user", "content": "How is it in Rome?"}


def body(**fields: Any) -> dict[str, Any]:
    return {"messages": [USER], "tools": [WEATHER, TIME], "temperature": 0} | fields


def say(served: Any, text: str) -> None:
    """What the model answers from now on."""
    served.runner._speak = lambda prompt: text
    served.runner._answers.clear()


def post(served: Any, **fields: Any) -> httpx.Response:
    return httpx.post(f"{served.url}/v1/chat/completions", json=body(**fields), timeout=30)


def answer(served: Any, **fields: Any) -> Any:
    """The only choice of a whole answer."""
    response = post(served, **fields)
    assert response.status_code == 200, response.text
    (choice,) = response.json()["choices"]
    return choice


def deltas(served: Any, **fields: Any) -> list[dict[str, Any]]:
    """The choices of a stream's chunks."""
    chunks = []
    with httpx.stream("POST", f"{served.url}/v1/chat/completions", json=body(stream=True, **fields), timeout=30) as response:
        for line in response.iter_lines():
            if line.startswith("data: ") and line != "data: [DONE]":
                chunks += json.loads(line.removeprefix("data: "))["choices"]
    return chunks


def streamed(served: Any, **fields: Any) -> Any:
    """A stream as the official client's accumulator puts it together: a choice as `answer` gives it."""
    message: dict[object, object] = {}
    reason = None
    for chunk in deltas(served, **fields):
        message = accumulate_delta(message, chunk["delta"])
        reason = chunk["finish_reason"] or reason
    for call in message.get("tool_calls", []):  # type: ignore[attr-defined]
        call.pop("index")
    return {"message": message, "finish_reason": reason}


def calls(choice: Any) -> list[tuple[str, Any]]:
    return [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in choice["message"]["tool_calls"]]
