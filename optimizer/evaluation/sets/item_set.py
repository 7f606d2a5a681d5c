"""A set of items that a model is asked and marked on. A set makes questions and marks replies; it runs no model."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from artifacts.errors import UserError
from optimizer.spec import SetSpec
from runtime.prompts import Prompts


@dataclass(frozen=True)
class Likelihood:
    """How likely are the tokens after the first `num_context_tokens`? The reply is the sum of their log-probabilities."""

    token_ids: tuple[int, ...]
    num_context_tokens: int

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)


@dataclass(frozen=True)
class Completion:
    """What follows, greedily, up to the first of `stop`? The reply is the text, without the stop."""

    token_ids: tuple[int, ...]
    max_tokens: int
    stop: tuple[str, ...] = ()

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids) + self.max_tokens


@dataclass(frozen=True)
class Calls:
    """Which of the functions in `tools` (JSON of a list as OpenAI's API has it) are called, greedily?

    The reply is JSON: a list of {name, arguments}, arguments being the text that the model wrote.
    """

    token_ids: tuple[int, ...]
    max_tokens: int
    tools: str

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids) + self.max_tokens


Question = Likelihood | Completion | Calls
Reply = float | str


@dataclass(frozen=True)
class Marked:
    """One model's result on one item: a score between 0 and 1 for each metric, and what it answered, in short."""

    item: str
    scores: Mapping[str, float]
    answer: str


@dataclass(frozen=True)
class ItemSet(ABC):
    """`items` are what is asked, in an order that a seed has shuffled: any first part of them is a fair sample."""

    name: str
    items: Sequence[Mapping[str, Any]]
    margin: float = field(kw_only=True, default=0.02)
    metric: str = field(kw_only=True, default="")
    """The metric that the gate reads, one of `metrics`; the first of them if it is left open."""

    format: ClassVar[str]
    metrics: ClassVar[tuple[str, ...]]
    is_exact: ClassVar[bool] = False
    """Whether nothing depends on chance, so that every item must be right."""

    def __post_init__(self) -> None:
        if not self.items:
            raise UserError(f"{self.name}: a set must have at least one item, got none")
        if self.metric and self.metric not in self.metrics:
            raise UserError(f"{self.name}: metric must be one of {', '.join(self.metrics)}, got {self.metric!r}")
        object.__setattr__(self, "metric", self.metric or self.metrics[0])

    @classmethod
    @abstractmethod
    def open(cls, spec: SetSpec, reference: Prompts, seed: int) -> Self:
        """The set that `spec` names; `reference` encodes as the source of the model says. ValueError for a bad file."""

    @abstractmethod
    def questions(self, item: Mapping[str, Any], prompts: Prompts) -> list[Question]:
        """What a model that encodes its prompts like this is asked. UserError where the item cannot be asked."""

    @abstractmethod
    def mark(self, item: Mapping[str, Any], replies: Sequence[Reply], prompts: Prompts) -> Marked:
        """The model's result, given its replies to the questions in their order."""

    def key(self, item: Mapping[str, Any], questions: Sequence[Question]) -> str:
        """Identifies the item, its prompts and how it is marked: a result under this key need not be asked for again."""
        content = [self.format, dict(item), [asdict(question) for question in questions]]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def path_of(spec: SetSpec) -> Path:
    """The file of a set whose format takes `path`."""
    assert spec.path is not None, "the specification asks for it"
    return spec.path


def dealt(items: Sequence[dict[str, Any]], spec: SetSpec, seed: int) -> list[dict[str, Any]]:
    """Shuffled, and cut to `max_items`: a larger cut begins with the smaller one, whose results it reuses."""
    order = np.random.default_rng(seed).permutation(len(items))
    return [items[i] for i in order[: spec.max_items]]


def completion_prompt(prompts: Prompts, text: str, *, chat: bool, answer_begins: str = "") -> tuple[int, ...]:
    """Token ids of `text` as a plain prompt, or as a user's message whose answer begins so."""
    if not chat:
        return tuple(prompts.encode(text))
    messages = [{"role": "user", "content": text}]
    if answer_begins:
        messages.append({"role": "assistant", "content": answer_begins})
    return tuple(prompts.encode_chat(messages, continue_final_message=bool(answer_begins)))
