"""A model to be asked: how it encodes prompts, an engine on demand, and what it has answered before."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from artifacts.errors import UserError
from optimizer.evaluation.asking import ask
from optimizer.evaluation.sets.item_set import ItemSet, Marked, Question
from runtime.engine_core import EngineCore
from runtime.loading import Loaded
from runtime.prompts import Prompts
from runtime.text_stream import Vocabulary


class Subject:
    """One model, on the stack that serves it.

    `open_engine` makes an engine for sequences of at most so many tokens; it is called when something has to be asked that
    `answers` does not hold. That file, a line per result, is appended to as results come: what was killed loses one batch.
    """

    def __init__(self, prompts: Prompts, open_engine: Callable[[int], EngineCore], answers: Path | None = None) -> None:
        self.prompts = prompts
        self._open_engine = open_engine
        self._vocabulary = Vocabulary(prompts.tokenizer)
        self._engine: EngineCore | None = None
        self._room = 0
        self._answers = answers
        self._known = {} if answers is None else _read(answers)

    @classmethod
    def served(cls, loaded: Loaded, answers: Path | None = None) -> Subject:
        """A bundle, as `serve` has loaded it: its tokenizer, template, kernels, limits."""
        return cls(Prompts(loaded.tokenizer, loaded.chat_template), lambda num_tokens: loaded.engine, answers)

    def results(self, item_set: ItemSet, items: Sequence[Mapping[str, Any]]) -> list[Marked]:
        """One result for each item. UserError where an item does not fit the model's context."""
        questions = [item_set.questions(item, self.prompts) for item in items]
        keys = [item_set.key(item, asked) for item, asked in zip(items, questions, strict=True)]
        missing = [i for i, key in enumerate(keys) if questions[i] and key not in self._known]
        replies = iter(self._ask([question for i in missing for question in questions[i]]))
        for i in missing:
            self._keep(keys[i], item_set.mark(items[i], [next(replies) for _ in questions[i]], self.prompts))
        # An item without questions costs nothing, and depends on more than its key.
        return [
            self._known[key] if asked else item_set.mark(item, (), self.prompts)
            for item, asked, key in zip(items, questions, keys, strict=True)
        ]

    def _ask(self, questions: Sequence[Question]) -> list[float | str]:
        if not questions:
            return []
        longest = max(question.num_tokens for question in questions)
        if self._engine is None or longest > self._room:
            self._engine, self._room = self._open_engine(longest), longest
        if longest > self._engine.max_model_len:
            raise UserError(
                f"an item needs {longest} tokens with its answer, and the model's context has {self._engine.max_model_len}; "
                "lower num_fewshot, max_tokens or context_tokens"
            )
        return ask(self._engine, self._vocabulary, self.prompts.formats, questions)

    def _keep(self, key: str, marked: Marked) -> None:
        self._known[key] = marked
        if self._answers is not None:
            self._answers.parent.mkdir(parents=True, exist_ok=True)
            with self._answers.open("a", encoding="utf-8") as file:
                file.write("\n" + json.dumps({"key": key, **asdict(marked)}, sort_keys=True))


def _read(path: Path) -> dict[str, Marked]:
    """Results by key. A line begins with its line break, so that one which a kill has cut spoils no other."""
    known = {}
    for line in path.read_text(encoding="utf-8").split("\n") if path.exists() else ():
        with suppress(ValueError):
            record = json.loads(line)
            key = record.pop("key")
            known[key] = Marked(**record)
    return known
