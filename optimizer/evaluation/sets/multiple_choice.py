"""Multiple choice by likelihood: the choice that the model finds most likely is its answer.

Scored as lm-evaluation-harness scores its `multiple_choice` tasks, so that figures can be compared item by item: the context is
"Question: ...\\nAnswer:", a choice follows after one space, its log-likelihood is the sum over its tokens. `acc` compares the
sums, `acc_norm` the sums per character of the choice, `acc_bytes` per UTF-8 byte; of equal ones the first is taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from artifacts.errors import UserError
from optimizer.evaluation.sets.item_set import ItemSet, Likelihood, Marked, Question, Reply, dealt, path_of
from optimizer.evaluation.sets.jsonl import read_items
from optimizer.spec import SetSpec
from runtime.prompts import Prompts

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class MultipleChoice(ItemSet):
    """Items have `question`, `choices` (texts) and `answer`, its index."""

    examples: Sequence[Mapping[str, Any]] = field(kw_only=True, default=())
    format: ClassVar[str] = "multiple_choice"
    metrics: ClassVar[tuple[str, ...]] = ("acc_norm", "acc", "acc_bytes")

    @classmethod
    def open(cls, spec: SetSpec, reference: Prompts, seed: int) -> MultipleChoice:
        """The first `num_fewshot` items of the file are examples and are not asked."""
        items, n = cls.read(path_of(spec)), spec.num_fewshot
        return cls(spec.name, dealt(items[n:], spec, seed), margin=spec.margin, metric=spec.metric, examples=items[:n])

    @classmethod
    def read(cls, path: Path) -> list[dict[str, Any]]:
        """Items of a JSON-lines file, whose `answer` may be an index from 0, a letter from A, or the choice itself."""
        items = read_items(path, {"question": str, "choices": list})
        for item in items:
            item["answer"] = _answer_index(path, item)
        return items

    def questions(self, item: Mapping[str, Any], prompts: Prompts) -> list[Question]:
        context = "\n\n".join([*(f"{_context(e)} {e['choices'][e['answer']]}" for e in self.examples), _context(item)])
        num_context_tokens = len(prompts.encode(context))
        questions = []
        for choice in item["choices"]:
            token_ids = tuple(prompts.encode(f"{context} {choice}"))
            if len(token_ids) <= num_context_tokens:
                raise UserError(f"{self.name}, item {item['id']}: choice {choice!r} has no tokens of its own; remove the item")
            questions.append(Likelihood(token_ids, num_context_tokens))
        return list(questions)

    def mark(self, item: Mapping[str, Any], replies: Sequence[Reply], prompts: Prompts) -> Marked:
        sums = [float(reply) for reply in replies]
        choices = item["choices"]
        ways = {
            "acc": sums,
            "acc_norm": [total / len(choice) for total, choice in zip(sums, choices, strict=True)],
            "acc_bytes": [total / len(choice.encode()) for total, choice in zip(sums, choices, strict=True)],
        }
        scores = {name: float(values.index(max(values)) == item["answer"]) for name, values in ways.items()}
        return Marked(item["id"], scores, " ".join(f"{total:.6f}" for total in sums))


def _context(item: Mapping[str, Any]) -> str:
    return f"Question: {item['question']}\nAnswer:"


def _answer_index(path: Path, item: Mapping[str, Any]) -> int:
    choices, answer = item["choices"], item.get("answer")
    if len(choices) < 2 or not all(isinstance(choice, str) and choice for choice in choices):
        raise UserError(f"{path}, item {item['id']}: choices must be at least two texts, got {choices!r:.80}")
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(choices):
        return answer
    if isinstance(answer, str):
        if answer in choices:
            return int(choices.index(answer))
        if len(answer) == 1 and answer in _LETTERS[: len(choices)]:
            return _LETTERS.index(answer)
    raise UserError(
        f"{path}, item {item['id']}: answer must be an index from 0 to {len(choices) - 1}, a letter or one of the choices, "
        f"got {answer!r}"
    )
