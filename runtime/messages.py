"""Chat messages as clients send them -> as chat templates expect them. Pure."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from runtime.request import RequestError

Message = Mapping[str, Any]
#: what a template reads a message's content as; "either" where it tells strings from lists of parts
ContentForm = Literal["text", "parts", "either"]
#: a field that is not there
ABSENT = object()
#: names that clients and templates have for what a model thought before it answered, the one to trust first
_REASONING = ("reasoning_content", "thinking", "reasoning")


@dataclass(frozen=True)
class CallForm:
    """How a template reads an assistant's message with tool calls.

    `arguments` are an object or its text. `content` is what stands for no content, ABSENT for no such field. `short_ids`:
    ids are nine letters and digits, as Mistral's templates demand.
    """

    arguments: Literal["object", "text"] = "object"
    content: object = ABSENT
    short_ids: bool = False


class Reader(Protocol):
    """A template, as far as messages depend on it."""

    def mentions(self, name: str) -> bool:
        """Whether it names this field, or compares with this string."""
        ...

    def content_form(self, role: str) -> ContentForm: ...

    @property
    def call_form(self) -> CallForm: ...


def normalized(messages: Sequence[Message], reader: Reader) -> list[Message]:
    """Copies of `messages` in which what clients may write in several ways is written in the way that `reader` reads.

    - A field that is null, or an empty list or object, is absent; `content` may be empty, not null.
    - The role `developer` is `system`, unless the template mentions it.
    - `reasoning_content`, `thinking` and `reasoning` are one field: each has the value of the first that is not null.
      (`reasoning` only where the template mentions it.)
    - The arguments of a tool call are an object, or its text. A call without content has what the template takes for none. An
      id is shortened for templates that take short ones alone, in calls and results alike.
    - `content` is a string for templates that read strings: the texts of a list of parts, joined by line breaks. It is a
      list for those that read lists alone, and stays as it is for those that tell the two apart. A part that is a refusal
      is a text.

    All else stays as it is, in the same order. RequestError for a part that is not text, and for arguments that are no object.
    """
    return [_normalized(message, reader) for message in messages]


def refused(message: str) -> RequestError:
    """What a template, or this server, does not take of a chat."""
    return RequestError(message, "messages")


def _normalized(message: Message, reader: Reader) -> dict[str, Any]:
    kept = {name: value for name, value in message.items() if not _is_absent(name, value)}
    if kept.get("role") == "developer" and not reader.mentions("developer"):
        kept["role"] = "system"
    reasoning = next((kept[name] for name in _REASONING if name in kept), None)
    if reasoning is not None:
        also = {"reasoning": reasoning} if reader.mentions("reasoning") else {}
        kept = {"thinking": reasoning, **also, **kept, "reasoning_content": reasoning}
    if "tool_calls" in kept or "tool_call_id" in kept:
        kept = _with_calls(kept, reader.call_form)
    if kept.get("content") is not None:
        kept["content"] = _content(kept["content"], reader.content_form(str(kept.get("role"))))
    return kept


def _is_absent(name: str, value: object) -> bool:
    return value is None or (name != "content" and value in ([], {}))


def _with_calls(message: Mapping[str, Any], form: CallForm) -> dict[str, Any]:
    changed = dict(message)
    if form.short_ids and isinstance(message.get("tool_call_id"), str):
        changed["tool_call_id"] = _short_id(message["tool_call_id"])
    if "tool_calls" in message:
        changed["tool_calls"] = [_call(call, form) for call in message["tool_calls"]]
        if "content" not in message and form.content is not ABSENT:
            changed = {"role": message.get("role"), "content": form.content} | changed
    return changed


def _call(call: Mapping[str, Any], form: CallForm) -> dict[str, Any]:
    function = dict(call["function"])
    arguments = function.get("arguments")
    if form.arguments == "text":
        function["arguments"] = arguments if isinstance(arguments, str) else json.dumps(arguments or {}, ensure_ascii=False)
    else:
        function["arguments"] = arguments_object(arguments)
    ids = {"id": _short_id(call["id"])} if form.short_ids and isinstance(call.get("id"), str) else {}
    return {**call, **ids, "function": function}


def arguments_object(arguments: object) -> Mapping[str, Any]:
    """Clients send the text of an object; an empty one, or null, for none."""
    value = arguments or {}
    if isinstance(arguments, str) and arguments.strip():
        try:
            value = json.loads(arguments)
        except (ValueError, RecursionError):
            value = arguments
    if not isinstance(value, Mapping):
        raise refused(f"arguments of a tool call must be a JSON object, got {arguments!r:.100}")
    return value


def _short_id(id: str) -> str:
    fits = re.fullmatch(r"[A-Za-z0-9]{9}", id)
    return id if fits else hashlib.sha256(id.encode(errors="replace")).hexdigest()[:9]


def _content(content: object, form: ContentForm) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if form == "parts" else content
    if not isinstance(content, list | tuple):
        raise refused(f"content must be a string or a list of parts, got {type(content).__name__}")
    parts = [_text_part(part) for part in content]
    return "\n".join(part["text"] for part in parts) if form == "text" else parts


def _text_part(part: object) -> dict[str, Any]:
    if isinstance(part, Mapping):
        if part.get("type") == "text" and isinstance(part.get("text"), str):
            return dict(part)
        if part.get("type") == "refusal" and isinstance(part.get("refusal"), str):
            return {"type": "text", "text": part["refusal"]}
        part = part.get("type")
    raise refused(f"content parts must be of type 'text', got {part!r}: only text is supported here")
