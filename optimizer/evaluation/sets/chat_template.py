"""Chats as they will be served against the source's own template and tokenizer: no chance is involved, so all must be right.

Each conversation must render to the source's text and encode to its ids, begin with one beginning of sequence if the model's
texts do and never with two, and keep every special token whole.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from optimizer.evaluation.sets.item_set import ItemSet, Marked, Question, Reply
from optimizer.spec import SetSpec
from runtime.prompts import Prompts
from runtime.request import RequestError

_U, _A, _S = "user", "assistant", "system"
_CONVERSATIONS: dict[str, list[tuple[str, str]]] = {
    "one message": [(_U, "What is the capital of France?")],
    "system message": [(_S, "Answer in one word."), (_U, "Is water wet?")],
    "several turns": [(_U, "Hi"), (_A, "Hello! How can I help?"), (_U, "Count to three."), (_A, "1, 2, 3"), (_U, "Go on.")],
    "spaces and line breaks": [(_U, "  two spaces\n\n\ttab\nend  ")],
    "beyond ASCII": [(_U, "naïve café, 你好, 😀, ﬁ, e\u0301")],
    "markup": [(_U, "<b>bold</b> &amp; {{ braces }} {% raw %} 'quotes' \"more\"")],
    "code": [(_U, "```python\ndef f(x):\n    return x ** 2\n```")],
    "an empty message": [(_U, "")],
    "many turns": [(role, f"Message {i}.") for i in range(10) for role in (_U, _A)] + [(_U, "The last one.")],
    "a long message": [(_U, "All work and no play makes Jack a dull boy. " * 40 + "The end.")],
}
_PLAIN = "plain text"


@dataclass(frozen=True)
class ChatFidelity(ItemSet):
    """`reference` encodes as the source says; what `mark` gets encodes as it will be served."""

    reference: Prompts = field(kw_only=True)
    format: ClassVar[str] = "chat_template"
    metrics: ClassVar[tuple[str, ...]] = ("exact",)
    is_exact: ClassVar[bool] = True

    @classmethod
    def open(cls, spec: SetSpec, reference: Prompts, seed: int) -> ChatFidelity:
        return cls(spec.name, cls.conversations(), margin=spec.margin, metric=spec.metric, reference=reference)

    @classmethod
    def conversations(cls) -> list[dict[str, Any]]:
        """Those that every chat model must take, and plain text, which must begin with one beginning of sequence too."""
        chats = [
            {"id": name, "messages": [{"role": role, "content": text} for role, text in turns]}
            for name, turns in _CONVERSATIONS.items()
        ]
        return [*chats, {"id": _PLAIN, "messages": []}]

    def questions(self, item: Mapping[str, Any], prompts: Prompts) -> list[Question]:
        return []

    def mark(self, item: Mapping[str, Any], replies: Sequence[Reply], prompts: Prompts) -> Marked:
        fault = self._fault(item, prompts)
        return Marked(item["id"], {"exact": float(not fault)}, fault)

    def _fault(self, item: Mapping[str, Any], served: Prompts) -> str:
        if item["id"] == _PLAIN:
            text = "Once upon a time"
            ids, expected = served.encode(text), self.reference.encode(text)
        else:
            try:
                text = self.reference.render_chat(item["messages"])
            except RequestError as error:
                return _refusal(item, served, str(error))
            try:
                rendered, ids = served.render_chat(item["messages"]), served.encode_chat(item["messages"])
            except RequestError as error:
                return f"{item['id']}: the source's template renders it, the served one does not: {error}"
            if rendered != text:
                return f"{item['id']}: rendered as {_around(rendered, text)}, the source renders {_around(text, rendered)}"
            expected = self.reference.encode_chat(item["messages"])
        if fault := _beginning_fault(ids, self.reference) or _split_token(text, ids, self.reference):
            return f"{item['id']}: {fault}"
        if ids != expected:
            return f"{item['id']}: encoded as {len(ids)} tokens, not as the source's {len(expected)}"
        return ""


def _refusal(item: Mapping[str, Any], served: Prompts, reason: str) -> str:
    """A template may refuse a conversation, such as one with a system message; then the served one must, too."""
    try:
        served.render_chat(item["messages"])
    except RequestError:
        return ""
    return f"{item['id']}: the source's template refuses it ({reason}), the served one does not"


def _beginning_fault(ids: Sequence[int], reference: Prompts) -> str:
    """What is wrong with the beginning of sequence: that which the tokenizer puts before a text."""
    plain, whole = reference.encode("a", add_special_tokens=False), reference.encode("a")
    beginning = whole[: next((i for i in range(len(whole)) if whole[i : i + len(plain)] == plain), 0)]
    if beginning and list(ids[: len(beginning)]) != beginning:
        return f"must begin with the beginning of sequence {beginning}, got {list(ids[: len(beginning)])}"
    if beginning and list(ids[len(beginning) : 2 * len(beginning)]) == beginning:
        return f"begins with the beginning of sequence {beginning} twice"
    return ""


def _split_token(text: str, ids: Sequence[int], reference: Prompts) -> str:
    """The first special token of `text` that is not among `ids` as often as it was written."""
    special = {added.content: i for i, added in reference.tokenizer.get_added_tokens_decoder().items() if added.special}
    if not special:
        return ""
    written = re.findall("|".join(re.escape(token) for token in sorted(special, key=len, reverse=True)), text)
    for token in dict.fromkeys(written):
        if list(ids).count(special[token]) < written.count(token):
            return f"the special token {token!r} is split: {written.count(token)} were written"
    return ""


def _around(text: str, other: str) -> str:
    """`text` where it begins to differ from `other`."""
    start = next((i for i, (a, b) in enumerate(zip(text, other, strict=False)) if a != b), min(len(text), len(other)))
    return repr(text[max(0, start - 8) : start + 24])
