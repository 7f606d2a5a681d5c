"""On the page at /, in a browser: what a visitor does, and answers that come in the server's place."""

from __future__ import annotations

import json
from typing import Any

_CHAT = "**/v1/chat/completions"
HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>&amp;</div>"


def say(page: Any, text: str) -> None:
    page.fill("#message", text)
    page.press("#message", "Enter")


def answer(page: Any) -> Any:
    """The last answer, which has ended."""
    page.wait_for_selector("#send:not([hidden])")
    return page.locator(".message.assistant").last


def stream(*deltas: dict[str, Any], finish_reason: str | None = "stop", ending: str = "data: [DONE]\n\n") -> str:
    """A stream of a chat as the server writes it."""
    ends: list[tuple[dict[str, Any], str | None]] = [({}, finish_reason)] if finish_reason else []
    parts = [*((delta, None) for delta in ({"role": "assistant", "content": ""}, *deltas)), *ends]
    chunks = [{"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]} for delta, reason in parts]
    usage = {"prompt_tokens": 9, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 4}}
    events = [*chunks, {"choices": [], "usage": usage}] if finish_reason else chunks
    return ": keep-alive\n\n" + "".join(f"data: {json.dumps(event)}\n\n" for event in events) + ending


def answering(page: Any, *bodies: str, status: int = 200) -> list[dict[str, Any]]:
    """The next requests get `bodies`, in order, all later ones the server's; what they ask is put into the list."""
    asked: list[dict[str, Any]] = []
    kind = "text/event-stream" if status == 200 else "application/json"
    left = list(bodies)

    def fulfill(route: Any) -> None:
        asked.append(route.request.post_data_json)
        if left:
            route.fulfill(status=status, content_type=kind, body=left.pop(0))
        else:
            route.continue_()

    page.route(_CHAT, fulfill)
    return asked


CALLS = stream(
    {"reasoning_content": "Two cities, "},
    {"reasoning_content": "two calls."},
    {"content": "Let me look."},
    {"tool_calls": [{"index": 0, "id": "call_a", "type": "function", "function": {"name": "get_weather", "arguments": ""}}]},
    {"tool_calls": [{"index": 0, "function": {"arguments": '{"city": '}}]},
    {"tool_calls": [{"index": 0, "function": {"arguments": '"Paris"}'}}]},
    {"tool_calls": [{"index": 1, "id": "call_b", "type": "function", "function": {"name": HOSTILE, "arguments": HOSTILE}}]},
    finish_reason="tool_calls",
)
