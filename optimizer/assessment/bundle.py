"""A bundle as a contender: loaded as `serve` loads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from artifacts.errors import UserError
from optimizer.assessment.contender import Likelihood
from optimizer.evaluation import ItemSet, Subject
from optimizer.evaluation.metrics import Logits
from optimizer.evaluation.sets import Marked
from runtime.loading import load, open_runner
from runtime.model_runner import ModelRunner
from runtime.prompts import Prompts
from runtime.sampler import logprobs_of
from runtime.scoring import score


class BundleContender:
    """Items are asked through its engine; texts are scored by a runner of their own, whose cache no engine holds."""

    can_score = True

    def __init__(self, folder: Path) -> None:
        """Loads it. BundleError if it is damaged or made for another machine."""
        self.label = str(folder)
        self._folder = folder
        self._loaded = load(folder)
        self._subject = Subject.served(self._loaded)

    @property
    def prompts(self) -> Prompts:
        return self._subject.prompts

    @property
    def tokenizer_json(self) -> str:
        return self._loaded.tokenizer.to_str()

    def results(self, item_set: ItemSet, items: Sequence[Mapping[str, Any]]) -> list[Marked]:
        return self._subject.results(item_set, items)

    def logits(self, token_ids: list[int]) -> Logits:
        """After each token: fp32 [n, vocab]. UserError for a text that its context does not hold."""
        longest = self._runner.limits.max_model_len
        if len(token_ids) > longest:
            raise UserError(
                f"{self.label}: a text of {len(token_ids)} tokens does not fit its context of {longest}; lower "
                "tokens_per_sequence"
            )
        return score(self._runner, token_ids)

    def likelihood(self, text: str) -> Likelihood:
        token_ids = self.prompts.encode(text)
        logits = self.logits(token_ids)
        scored = (logprobs_of(row, token, 0).logprob for row, token in zip(logits[:-1], token_ids[1:], strict=True))
        total = float(np.sum(list(scored)))
        if not np.isfinite(total):
            raise UserError(f"{self.label}: log-probabilities must be finite, got {total}; verify the bundle")
        return Likelihood(total, len(token_ids) - 1)

    @cached_property
    def _runner(self) -> ModelRunner:
        _, runner = open_runner(self._folder)
        return runner
