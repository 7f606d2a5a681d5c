"""Worked answers that end in a number: the model writes its own, and the number after #### must be the same.

Prompts and extraction are those of lm-evaluation-harness's gsm8k: `strict` takes the number after the first "#### ",
`flexible` the last number in the text; both are compared without commas, dollar signs and a final full stop.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from artifacts.errors import UserError
from optimizer.evaluation.sets.item_set import Completion, ItemSet, Marked, Question, Reply, completion_prompt, dealt, path_of
from optimizer.evaluation.sets.jsonl import read_items
from optimizer.spec import SetSpec
from runtime.prompts import Prompts

_STOP = ("Question:", "</s>", "<|im_end|>")
_STRICT = re.compile(r"#### (-?[0-9.,]+)")
_NUMBER = re.compile(r"-?[$0-9.,]{2,}|-?[0-9]+")


@dataclass(frozen=True)
class Gsm8k(ItemSet):
    """Items have `question` and an `answer` that ends in "#### N". `examples` are shown, with their answers, before each."""

    examples: Sequence[Mapping[str, Any]] = field(kw_only=True, default=())
    chat: bool = field(kw_only=True, default=False)
    max_tokens: int = field(kw_only=True, default=256)
    format: ClassVar[str] = "gsm8k"
    metrics: ClassVar[tuple[str, ...]] = ("strict", "flexible")

    @classmethod
    def open(cls, spec: SetSpec, reference: Prompts, seed: int) -> Gsm8k:
        """The first `num_fewshot` items of the file are examples and are not asked."""
        items, n = cls.read(path_of(spec)), spec.num_fewshot
        return cls(
            spec.name,
            dealt(items[n:], spec, seed),
            margin=spec.margin,
            metric=spec.metric,
            examples=items[:n],
            chat=spec.chat,
            max_tokens=spec.max_tokens or cls.max_tokens,
        )

    @classmethod
    def read(cls, path: Path) -> list[dict[str, Any]]:
        items = read_items(path, {"question": str, "answer": str})
        for item in items:
            if "####" not in item["answer"]:
                raise UserError(f"{path}, item {item['id']}: answer must end in '#### N', got {item['answer'][-40:]!r}")
        return items

    def questions(self, item: Mapping[str, Any], prompts: Prompts) -> list[Question]:
        text = "\n\n".join([*(f"{_asked(example)} {example['answer']}" for example in self.examples), _asked(item)])
        return [Completion(completion_prompt(prompts, text, chat=self.chat), self.max_tokens, _STOP)]

    def mark(self, item: Mapping[str, Any], replies: Sequence[Reply], prompts: Prompts) -> Marked:
        text, truth = str(replies[0]), _plain(item["answer"])
        strict, numbers = _STRICT.search(text), _NUMBER.findall(text)
        answers = {"strict": strict[1] if strict else None, "flexible": numbers[-1] if numbers else None}
        scores = {name: float(answer is not None and _plain(answer) == truth) for name, answer in answers.items()}
        return Marked(item["id"], scores, text)


def _asked(item: Mapping[str, Any]) -> str:
    return f"Question: {item['question']}\nAnswer:"


def _plain(number: str) -> str:
    number = re.sub(r"(?s).*#### ", "", re.sub(r"[,$]", "", number))
    return number.removesuffix(".").strip().lower()
