"""Tools in words, for chat templates that do not write them: a message tells of them, calls and results are texts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from runtime.messages import Message, arguments_object
from runtime.tools.tool_format import ToolFormat, WrittenCall

_INSTRUCTIONS = """\
You can call functions. Each line between <tools> and </tools> describes one:
<tools>
{tools}
</tools>
To call a function, answer with nothing but its name and arguments, like this:
{example}
Call one only if you need it. Otherwise answer in plain text."""
_EXAMPLE = ("the name of the function", '{"the name of an argument": "its value"}')


def with_tools(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], format: ToolFormat) -> list[Message]:
    """`messages` with a system message that describes `tools`, in front of the chat's own, and how to call them."""
    listed = "\n".join(json.dumps(tool.get("function", tool), ensure_ascii=False) for tool in tools)
    instructions = _INSTRUCTIONS.format(tools=listed, example=format.written([_EXAMPLE]))
    first = messages[0] if messages else {}
    if first.get("role") not in ("system", "developer"):
        return [{"role": "system", "content": instructions}, *messages]
    return [{**first, "content": _joined(instructions, first.get("content"))}, *messages[1:]]


def in_words(messages: Sequence[Message], format: ToolFormat) -> list[Message]:
    """`messages` with calls as texts of the assistant, and their results as texts of the user: what any template takes."""
    said: list[Message] = []
    names: dict[str, str] = {}
    was_result = False
    for message in messages:
        if message.get("role") == "tool":
            name = message.get("name") or names.get(str(message.get("tool_call_id")), "the function")
            result = _joined(f"Result of {name}:", message.get("content"), "\n")
            if was_result:  # templates want roles that alternate
                result = _joined(said.pop()["content"], result)
            said.append({"role": "user", "content": result})
        elif calls := message.get("tool_calls"):
            names |= {str(call.get("id")): call["function"]["name"] for call in calls}
            written = format.written([_call(call["function"]) for call in calls])
            kept = {name: value for name, value in message.items() if name != "tool_calls"}
            said.append({**kept, "content": _joined(message.get("content"), written, "\n")})
        else:
            said.append(message)
        was_result = message.get("role") == "tool"
    return said


def _call(function: Mapping[str, Any]) -> WrittenCall:
    return function["name"], json.dumps(arguments_object(function.get("arguments")), ensure_ascii=False)


def _joined(first: object, then: object, between: str = "\n\n") -> Any:
    """Two contents as one, each a text or a list of parts."""
    if not first or not then:
        return first or then or ""
    if isinstance(first, str) and isinstance(then, str):
        return first + between + then
    return [*_parts(first), *_parts(then)]


def _parts(content: Any) -> list[Any]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
