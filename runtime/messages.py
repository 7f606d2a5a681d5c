"""Chat messages as clients send them -> as chat templates expect them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

from runtime.request import RequestError

Message = Mapping[str, Any]
#: what a template reads a message's content as; "either" where it tells strings from lists of parts
ContentForm = Literal["text", "parts", "either"]
#: names that clients and templates have for what a model thought before it answered, the one to trust first
_REASONING = ("reasoning_content", "thinking", "reasoning")


class Reader(Protocol):
    """A template, as far as messages depend on it."""

    def mentions(self, name: str) -> bool:
        """Whether it names this field, or compares with this string."""
        ...

    def content_form(self, role: str) -> ContentForm: ...


def normalized(messages: Sequence[Message], reader: Reader) -> list[Message]:
    """Copies of `messages` in which what clients may write in several ways is written in the way that `reader` reads.

    - A field that is null, or an empty list or object, is absent; `content` may be empty, not null.
    - The role `developer` is `system`, unless the template mentions it.
    - `reasoning_content`, `thinking` and `reasoning` are one field: each has the value of the first that is not null.
      (`reasoning` only where the template mentions it.)
    - `content` is a string for templates that read strings: the texts of a list of parts, joined by line breaks. It is a
      list for those that read lists alone, and stays as it is for those that tell the two apart. A part that is a refusal
      is a text.

    All else stays as it is, in the same order. RequestError for a part that is not text.
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
    if "content" in kept:
        kept["content"] = _content(kept["content"], reader.content_form(str(kept.get("role"))))
    return kept


def _is_absent(name: str, value: object) -> bool:
    return value is None or (name != "content" and value in ([], {}))


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
