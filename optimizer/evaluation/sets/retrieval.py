"""A number hidden in a long text: generated from a seed, at stated lengths and even depths (pass-key retrieval; Mohtashami and
Jaggi 2023). It shows what texts of a few hundred tokens do not: a KV cache that loses what lies far back."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from artifacts.errors import UserError
from optimizer.evaluation.sets.item_set import Completion, ItemSet, Marked, Question, Reply, completion_prompt
from optimizer.spec import SetSpec
from runtime.prompts import Prompts

_FILLER = (
    "The grass is green.",
    "The sky is blue.",
    "The sun is yellow.",
    "Here we go.",
    "There and back again.",
    "The river runs down to the sea.",
    "A lamp was left on in the hall.",
    "Nobody had been to the harbour that day.",
)
_MAX_TOKENS = 16
_LEAST_TOKENS = 96


@dataclass(frozen=True)
class Retrieval(ItemSet):
    """Items have `num_tokens` of the whole prompt, `depth` (0 begins, 1 ends the text), `key` and a `seed` for the filler."""

    chat: bool = field(kw_only=True, default=False)
    format: ClassVar[str] = "retrieval"
    metrics: ClassVar[tuple[str, ...]] = ("exact_match",)

    @classmethod
    def open(cls, spec: SetSpec, reference: Prompts, seed: int) -> Retrieval:
        items = cls.generate(spec.context_tokens, spec.max_items or 100, seed)
        return cls(spec.name, items, margin=spec.margin, metric=spec.metric, chat=spec.chat)

    @classmethod
    def generate(cls, lengths: Sequence[int], num_items: int, seed: int) -> list[dict[str, Any]]:
        """`num_items` items, their lengths in turn; UserError for a length with no room for a text."""
        if min(lengths) < _LEAST_TOKENS:
            raise UserError(f"context_tokens must be at least {_LEAST_TOKENS}, got {min(lengths)}")
        rng = np.random.default_rng(seed)
        return [
            {
                "id": str(i),
                "num_tokens": lengths[i % len(lengths)],
                "depth": round(float(rng.random()), 3),
                "key": str(rng.integers(10_000, 100_000)),
                "seed": int(rng.integers(1 << 31)),
            }
            for i in range(num_items)
        ]

    def questions(self, item: Mapping[str, Any], prompts: Prompts) -> list[Question]:
        """The longest text that keeps prompt and answer within the item's length."""
        room = item["num_tokens"] - _MAX_TOKENS
        sentences = np.random.default_rng(item["seed"]).choice(_FILLER, room)  # a sentence has more than one token

        def prompt(num_sentences: int) -> tuple[int, ...]:
            before = round(item["depth"] * num_sentences)
            needle = f"The pass key is {item['key']}. Remember it. {item['key']} is the pass key."
            text = " ".join([*sentences[:before], needle, *sentences[before:num_sentences]])
            task = "A pass key is hidden in the following text. Find it and remember it."
            ending = "What is the pass key?" if self.chat else "What is the pass key? The pass key is"
            return completion_prompt(prompts, f"{task}\n\n{text}\n\n{ending}", chat=self.chat)

        fits, does_not = 0, room
        while does_not - fits > 1:
            middle = (fits + does_not) // 2
            fits, does_not = (middle, does_not) if len(prompt(middle)) <= room else (fits, middle)
        return [Completion(prompt(fits), _MAX_TOKENS)]

    def mark(self, item: Mapping[str, Any], replies: Sequence[Reply], prompts: Prompts) -> Marked:
        text = str(replies[0])
        found = re.search(r"\d+", text)
        return Marked(item["id"], {"exact_match": float(found is not None and found[0] == item["key"])}, text)
