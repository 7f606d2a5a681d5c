"""What a chat template does with tools and calls, found by rendering some. Pure."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from runtime.messages import ABSENT, CallForm, Message

_NAME, _KEY, _VALUE = "coldforge_function", "coldforge_key", "coldforge_value"
_TOOL = {
    "type": "function",
    "function": {
        "name": _NAME,
        "description": "A function.",
        "parameters": {
            "type": "object",
            "properties": {_KEY: {"type": "string", "description": "A text."}},
            "required": [_KEY],
        },
    },
}
_SYSTEM: Message = {"role": "system", "content": "Be kind."}
_USER: Message = {"role": "user", "content": "Hi"}
_IDS = ("call_0123456789abcdef01234567", "a1B2c3D4e")
_ARGUMENTS = {_KEY: _VALUE}
_Render = Callable[[Sequence[Message], Mapping[str, Any]], str]


class TemplateProbe:
    """`render(messages, variables)` gives a prompt, or nothing where the template refuses."""

    def __init__(self, render: _Render) -> None:
        self._render = render

    @cached_property
    def knows_tools(self) -> bool:
        """Whether a function that is offered shows in the prompt."""
        chats = ([_USER], [_SYSTEM, _USER])
        return any(_NAME in self._render(chat, {"tools": [_TOOL]}) for chat in chats)

    @cached_property
    def call_form(self) -> CallForm | None:
        """The first form of a call that the template takes, and writes as JSON or in tags of its own; None if it takes none.

        Transformers' own form, an object of arguments and no content, is tried first.
        """
        contents = (ABSENT, None, "")
        for (id, is_short), content in itertools.product(zip(_IDS, (False, True), strict=True), contents):
            text = self._call(id, content, _ARGUMENTS)
            if _KEY in text and _VALUE in text and f"'{_KEY}'" not in text:
                return CallForm("object", content, is_short)
            as_text = json.dumps(_ARGUMENTS)
            if as_text in self._call(id, content, as_text):
                return CallForm("text", content, is_short)
        return None

    def _call(self, id: str, content: object, arguments: object) -> str:
        call = {"id": id, "type": "function", "function": {"name": _NAME, "arguments": arguments}}
        said: dict[str, Any] = {"role": "assistant", "tool_calls": [call]}
        if content is not ABSENT:
            said["content"] = content
        result = {"role": "tool", "name": _NAME, "tool_call_id": id, "content": "4"}
        chats = ([_USER, said, result], [_USER, said])
        tools = {"tools": [_TOOL]}
        return next((text for chat in chats if (text := self._render(chat, tools))), "")
