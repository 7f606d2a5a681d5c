"""A candidate against its baseline on one text: sequences are added until the gate is decided, or no more may be."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from optimizer.evaluation.evaluation import Evaluation, rounded
from optimizer.evaluation.gate import Check, Gate, Verdict
from optimizer.evaluation.looks import Look, looks_between, until_decided
from optimizer.evaluation.metrics import SequenceScore

_SPENT = 0.02
"""Of an error of 2.5 %: a bootstrap of few sequences with a long tail errs somewhat more often than it says (decision 0056)."""


def text_looks(first: int, most: int) -> tuple[Look, ...]:
    """Looks at a text, from about `first` sequences to `most`."""
    return looks_between(min(first, most), most, _SPENT)


@dataclass(frozen=True)
class TextComparison:
    """Scores of the sequences that were heard, in their order, and the gate's verdict at the last look that was taken."""

    scores: tuple[SequenceScore, ...]
    looks: tuple[Look, ...]
    """Those that could have been taken; one ends with the sequences that were heard."""
    gate: Gate
    seed: int

    @cached_property
    def evaluation(self) -> Evaluation:
        """Of all that was heard, at the confidence of its look."""
        return self._at(self.taken[-1])

    @cached_property
    def verdict(self) -> Verdict:
        return self.gate.judge(self.evaluation)

    @property
    def taken(self) -> tuple[Look, ...]:
        return tuple(look for look in self.looks if look.size <= len(self.scores))

    @property
    def first(self) -> Evaluation:
        """Of what every candidate is heard on, at 95 %."""
        return Evaluation.of(self.scores[: self.looks[0].size], seed=self.seed)

    @property
    def stopped(self) -> str:
        """Why no more sequences were heard."""
        outcome, most = self.verdict.outcome, self.looks[-1].size
        if outcome == "inconclusive":
            return f"undecided after all of {most} sequences"
        return "every limit is met" if outcome == "pass" else "a limit is missed"

    def record(self) -> dict[str, object]:
        """Plain data for evaluation.json: the figures, and what each look said of each metric."""
        looks = [
            {
                "num_sequences": look.size,
                "level": rounded(look.level),
                "outcomes": {c.metric: c.outcome for c in self.gate.judge(self._at(look)).checks if isinstance(c, Check)},
            }
            for look in self.taken
        ]
        return self.evaluation.record() | {"looks": looks, "max_sequences": self.looks[-1].size, "stopped": self.stopped}

    def _at(self, look: Look) -> Evaluation:
        return Evaluation.of(self.scores[: look.size], seed=self.seed, level=look.level)


def compare_on_text(
    looks: Sequence[Look], scores_of: Callable[[int, int], Iterable[SequenceScore]], gate: Gate, *, seed: int
) -> TextComparison:
    """Look by look until `gate` is decided. `scores_of(a, b)` scores sequences a to b; `seed` is the bootstrap's."""
    heard: list[SequenceScore] = []

    def look_at(look: Look) -> TextComparison:
        heard.extend(scores_of(len(heard), look.size))
        return TextComparison(tuple(heard), tuple(looks), gate, seed)

    return until_decided(looks, look_at)
