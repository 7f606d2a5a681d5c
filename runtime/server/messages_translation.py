"""A request of Anthropic's API -> the chat that it asks for. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from runtime.server.errors import invalid
from runtime.server.protocol_chat import ChatCompletionBody
from runtime.server.protocol_messages import (
    Block,
    CountTokensBody,
    MessagesBody,
    MessageTurn,
    TextBlock,
    ThinkingBlock,
    Tool,
    ToolResultBlock,
    ToolUseBlock,
)
from runtime.server.translated import as_chat

#: what a field of the chat is called here
NAMES = {
    "chat_template_kwargs": "thinking",
    "max_completion_tokens": "max_tokens",
    "messages": "messages",
    "reasoning_effort": "output_config.effort",
    "response_format": "output_config.format",
    "stop": "stop_sequences",
    "thinking_token_budget": "thinking.budget_tokens",
    "tool_choice": "tool_choice",
    "tools": "tools",
}


def to_chat(body: CountTokensBody) -> ChatCompletionBody:
    """Raises ApiError 400 in this API's words."""
    system = [] if body.system is None else [{"role": "system", "content": _text(body.system)}]
    turns = [message for turn in body.messages for message in messages(turn)]
    format = body.output_config.format or body.output_format
    fields: dict[str, Any] = {
        **body.chat_fields,
        "messages": [*system, *turns],
        "model": body.model,
        # A last turn of the assistant is the beginning of its answer.
        "continue_final_message": turns[-1]["role"] == "assistant" and "tool_calls" not in turns[-1],
        "response_format": format and {"type": "json_schema", "json_schema": {"name": "answer", "schema": format.schema_}},
        "reasoning_effort": body.output_config.effort,
        **tool_fields(body),
        **thinking_fields(body),
    }
    if isinstance(body, MessagesBody):
        fields |= {"max_completion_tokens": body.max_tokens, "stop": body.stop_sequences, "stream": body.stream}
    return as_chat(fields, NAMES)


def messages(turn: MessageTurn) -> list[dict[str, Any]]:
    """The chat's messages of a turn: results of tools are messages of their own, in their place among the texts."""
    if isinstance(turn.content, str):
        return [{"role": turn.role, "content": turn.content}]
    if turn.role == "assistant":
        return [_assistant(turn.content)]
    chat: list[dict[str, Any]] = []
    texts: list[TextBlock] = []
    for block in turn.content:
        if isinstance(block, ToolResultBlock):
            chat += _texts(turn.role, texts) if texts else []
            texts = []
            chat.append({"role": "tool", "tool_call_id": block.tool_use_id, "content": _text(block.content)})
        elif isinstance(block, TextBlock):
            texts.append(block)
    # A turn without a block is one without text.
    return [*chat, *(_texts(turn.role, texts) if texts or not chat else [])]


def _texts(role: str, blocks: Sequence[TextBlock]) -> list[dict[str, Any]]:
    return [{"role": role, "content": _text(blocks)}]


def _assistant(blocks: Iterable[Block]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant"}
    for block in blocks:
        if isinstance(block, TextBlock):
            message["content"] = message.get("content", "") + block.text
        elif isinstance(block, ThinkingBlock):
            message["reasoning_content"] = message.get("reasoning_content", "") + block.thinking
        elif isinstance(block, ToolUseBlock):
            function = {"name": block.name, "arguments": json.dumps(block.input, ensure_ascii=False)}
            message.setdefault("tool_calls", []).append({"id": block.id, "type": "function", "function": function})
    if "tool_calls" not in message:
        message.setdefault("content", "")
    return message


def _text(content: str | Sequence[Block]) -> str | list[dict[str, str]]:
    """One text as a text; of several the chat template decides how they are joined."""
    if isinstance(content, str):
        return content
    texts = [block.text for block in content if isinstance(block, TextBlock)]
    return "".join(texts) if len(texts) < 2 else [{"type": "text", "text": text} for text in texts]


def tool_fields(body: CountTokensBody) -> dict[str, Any]:
    """The chat's `tools`, `tool_choice`, `parallel_tool_calls`."""
    fields: dict[str, Any] = {"tools": [_tool(tool) for tool in body.tools]}
    choice = body.tool_choice
    if choice is not None:
        if not body.tools and choice.type in ("any", "tool"):
            raise invalid(f"tool_choice {choice.type!r} needs tools, got none; add tools or leave it out", "tool_choice")
        named = {"type": "function", "function": {"name": choice.name}}
        fields["tool_choice"] = named if choice.type == "tool" else "required" if choice.type == "any" else choice.type
        fields["parallel_tool_calls"] = not choice.disable_parallel_tool_use
    return fields


def _tool(tool: Tool) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.input_schema, "strict": tool.strict}
    return {"type": "function", "function": {name: value for name, value in function.items() if value is not None}}


def thinking_fields(body: CountTokensBody) -> dict[str, Any]:
    """Whether templates that can ask for thought do, and how much there may be. Left open, the template decides."""
    if body.thinking is None:
        return {}
    given = body.chat_fields.get("chat_template_kwargs") or {}
    fields: dict[str, Any] = {"chat_template_kwargs": {"enable_thinking": body.thinking.type != "disabled"} | given}
    if body.thinking.budget_tokens is not None:
        fields["thinking_token_budget"] = body.thinking.budget_tokens
    return fields
