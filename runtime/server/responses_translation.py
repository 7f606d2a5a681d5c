"""A request of the Responses API -> the chat that it asks for. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from runtime.server.protocol_chat import ChatCompletionBody
from runtime.server.protocol_responses import (
    AllowedTools,
    Content,
    FunctionCallItem,
    FunctionCallOutputItem,
    FunctionTool,
    InputItem,
    MessageItem,
    NamedTool,
    ReasoningItem,
    ResponsesBody,
    TextFormat,
)
from runtime.server.translated import as_chat

#: what a field of the chat is called here
NAMES = {
    "messages": "input",
    "max_completion_tokens": "max_output_tokens",
    "max_tokens": "max_output_tokens",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
    "tool_choice": "tool_choice",
    "tools": "tools",
}


def to_chat(body: ResponsesBody, items: Sequence[InputItem]) -> ChatCompletionBody:
    """`items` are the whole conversation: what was kept of it, and the request's own. ApiError 400 in this API's words."""
    instructions = [] if body.instructions is None else [{"role": "system", "content": body.instructions}]
    fields: dict[str, Any] = {
        **body.chat_fields,
        "messages": [*instructions, *messages(items)],
        "model": body.model,
        "stream": body.stream,
        "max_completion_tokens": body.max_output_tokens,
        "response_format": response_format(body.text.format),
        "reasoning_effort": body.reasoning.effort,
        **tool_fields(body),
    }
    if body.wants_logprobs:
        fields |= {"logprobs": True, "top_logprobs": body.top_logprobs}
    if body.truncation == "auto":
        fields.setdefault("truncate_prompt_tokens", -1)
    return as_chat(fields, NAMES)


def input_items(body: ResponsesBody) -> list[InputItem]:
    """The request's items; a text is a message of the user."""
    return [MessageItem(role="user", content=body.input)] if isinstance(body.input, str) else body.input


def messages(items: Iterable[InputItem]) -> list[dict[str, Any]]:
    """The chat of these items: reasoning, text and calls of the assistant that follow each other are one message."""
    chat: list[dict[str, Any]] = []
    for item in items:
        if isinstance(item, FunctionCallOutputItem):
            chat.append({"role": "tool", "tool_call_id": item.call_id, "content": _text(item.output)})
        elif isinstance(item, MessageItem) and item.role != "assistant":
            chat.append({"role": item.role, "content": _text(item.content)})
        else:
            _add_to_turn(_open_turn(chat, item), item)
    for message in chat:
        if "tool_calls" not in message:
            message.setdefault("content", "")
    return chat


def _open_turn(chat: list[dict[str, Any]], item: InputItem) -> dict[str, Any]:
    """The assistant's message that `item` belongs to: the last one, unless that already goes further in the order of a turn."""
    last = chat[-1] if chat else {"role": "none"}
    goes_further = {"tool_calls"} if isinstance(item, MessageItem) else {"content", "tool_calls"}
    if last["role"] != "assistant" or (not isinstance(item, FunctionCallItem) and any(last.get(name) for name in goes_further)):
        last = {"role": "assistant"}
        chat.append(last)
    return last


def _add_to_turn(turn: dict[str, Any], item: InputItem) -> None:
    if isinstance(item, ReasoningItem):
        thought = "".join(part.text for part in item.content or item.summary)
        turn["reasoning_content"] = turn.get("reasoning_content", "") + thought
    elif isinstance(item, FunctionCallItem):
        call = {"id": item.call_id, "type": "function", "function": {"name": item.name, "arguments": item.arguments}}
        turn.setdefault("tool_calls", []).append(call)
    elif isinstance(item, MessageItem):
        text = item.content if isinstance(item.content, str) else "".join(_texts(item.content))
        turn["content"] = turn.get("content", "") + text


def _text(content: Content) -> str | list[dict[str, str]]:
    """One text as a text; of several the chat template decides how they are joined."""
    if isinstance(content, str):
        return content
    texts = _texts(content)
    return texts[0] if len(texts) == 1 else [{"type": "text", "text": text} for text in texts]


def _texts(content: Iterable[Any]) -> list[str]:
    return [part.refusal if part.type == "refusal" else part.text for part in content]


def response_format(format: TextFormat) -> dict[str, Any] | None:
    """The chat's form of `text.format`."""
    if format.type != "json_schema":
        return None if format.type == "text" else {"type": format.type}
    described = {"name": format.name, "description": format.description, "schema": format.schema_, "strict": format.strict}
    return {"type": format.type, "json_schema": {name: value for name, value in described.items() if value is not None}}


def tool_fields(body: ResponsesBody) -> Mapping[str, Any]:
    """The chat's `tools`, `tool_choice`, `parallel_tool_calls`."""
    choice = body.tool_choice
    chosen: Any = choice
    if isinstance(choice, AllowedTools):
        allowed = {"mode": choice.mode, "tools": [_named(tool) for tool in choice.tools]}
        chosen = {"type": "allowed_tools", "allowed_tools": allowed}
    elif isinstance(choice, NamedTool):
        chosen = _named(choice)
    return {
        "tools": [_tool(tool) for tool in body.tools],
        "tool_choice": chosen if "tool_choice" in body.model_fields_set else None,
        "parallel_tool_calls": body.parallel_tool_calls,
    }


def _named(tool: NamedTool) -> dict[str, Any]:
    return {"type": "function", "function": {"name": tool.name}}


def _tool(tool: FunctionTool) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters, "strict": tool.strict}
    return {"type": "function", "function": {name: value for name, value in function.items() if value is not None}}
