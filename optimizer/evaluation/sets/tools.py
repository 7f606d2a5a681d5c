"""Calls of functions: the right one, with the right arguments.

Marked as the Berkeley Function Calling Leaderboard marks its simple and multiple categories (Patil et al., ICML 2025): every
argument has a list of values that are right, in which "" says that it may be left out; texts are compared without case, spaces
and punctuation, numbers as numbers, whatever the order of keys. An argument that is not expected is wrong.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from artifacts.errors import UserError
from optimizer.evaluation.sets.item_set import Calls, ItemSet, Marked, Question, Reply, dealt, path_of
from optimizer.evaluation.sets.jsonl import read_items
from optimizer.spec import SetSpec
from runtime.prompts import Prompts

_PUNCTUATION = re.compile(r"[ ,./_*^\-'\"]")


@dataclass(frozen=True)
class Tools(ItemSet):
    """Items have `messages` (or `question`, a user's), `tools` and `expected`: {name, arguments}, or null where none is to be
    called. `call` is right if there is that one call; `function` and `arguments` look at its halves."""

    max_tokens: int = field(kw_only=True, default=256)
    format: ClassVar[str] = "tools"
    metrics: ClassVar[tuple[str, ...]] = ("call", "function", "arguments")

    @classmethod
    def open(cls, spec: SetSpec, reference: Prompts, seed: int) -> Tools:
        items = dealt(cls.read(path_of(spec)), spec, seed)
        max_tokens = spec.max_tokens or cls.max_tokens
        return cls(spec.name, items, margin=spec.margin, metric=spec.metric, max_tokens=max_tokens)

    @classmethod
    def read(cls, path: Path) -> list[dict[str, Any]]:
        items = read_items(path, {"tools": list})
        for item in items:
            if fault := _fault(item):
                raise UserError(f"{path}, item {item['id']}: {fault}")
        return items

    def questions(self, item: Mapping[str, Any], prompts: Prompts) -> list[Question]:
        messages = item.get("messages") or [{"role": "user", "content": item["question"]}]
        token_ids = tuple(prompts.encode_chat(messages, tools=item["tools"]))
        return [Calls(token_ids, self.max_tokens, json.dumps(item["tools"]))]

    def mark(self, item: Mapping[str, Any], replies: Sequence[Reply], prompts: Prompts) -> Marked:
        reply = str(replies[0])
        calls = [(call["name"], call["arguments"]) for call in json.loads(reply)]
        return Marked(item["id"], are_right(calls, item["expected"]), reply)


def are_right(calls: Sequence[tuple[str, str]], expected: Mapping[str, Any] | None) -> dict[str, float]:
    """A score for each metric: of names and arguments, these as texts, against an item's `expected`."""
    if expected is None:
        return dict.fromkeys(Tools.metrics, float(not calls))
    # Of several calls none is the answer.
    name, written = calls[0] if len(calls) == 1 else ("", "")
    function, arguments = name == expected["name"], _has_right_arguments(written, expected["arguments"])
    return {"call": float(function and arguments), "function": float(function), "arguments": float(arguments)}


def _fault(item: Mapping[str, Any]) -> str:
    """What is wrong with an item of a file; empty if nothing is."""
    if not isinstance(item.get("question"), str) and not (isinstance(item.get("messages"), list) and item["messages"]):
        return "must have question, a text, or messages, a chat"
    names = []
    for tool in item["tools"]:
        function = tool.get("function") if isinstance(tool, dict) and tool.get("type") == "function" else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            return f"tools must be functions as OpenAI's API has them, got {tool!r:.80}"
        names.append(function["name"])
    expected = item.get("expected", "nothing")
    if expected is None:
        return ""
    arguments = expected.get("arguments") if isinstance(expected, dict) else None
    if not isinstance(arguments, dict) or expected.get("name") not in names:
        return f"expected must be null or have name, one of {', '.join(names)}, and arguments; got {expected!r:.80}"
    for name, values in arguments.items():
        if not isinstance(values, list) or not values:
            return f"expected.arguments.{name} must be the list of values that are right, got {values!r:.80}"
    return ""


def _has_right_arguments(written: str, expected: Mapping[str, Sequence[Any]]) -> bool:
    try:
        arguments = json.loads(written)
    except ValueError:
        return False
    if not isinstance(arguments, dict) or arguments.keys() - expected.keys():
        return False
    return all(
        any(_same(arguments[name], value) for value in values) if name in arguments else "" in values
        for name, values in expected.items()
    )


def _same(given: Any, right: Any) -> bool:
    if isinstance(given, bool) or isinstance(right, bool):
        return given is right
    if isinstance(given, int | float) and isinstance(right, int | float):
        return given == right
    if isinstance(given, str) and isinstance(right, str):
        return _plain(given) == _plain(right)
    if isinstance(given, list) and isinstance(right, list):
        return len(given) == len(right) and all(map(_same, given, right))
    if isinstance(given, dict) and isinstance(right, dict):
        return given.keys() == right.keys() and all(_same(given[key], right[key]) for key in right)
    return given is None and right is None


def _plain(text: str) -> str:
    return _PUNCTUATION.sub("", text).lower()
