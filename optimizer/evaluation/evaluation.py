"""One candidate against its baseline over one set of sequences."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from optimizer.evaluation.baseline import BaselineStore
from optimizer.evaluation.confidence import Estimate, ratio_of_sums
from optimizer.evaluation.metrics import Logits, SequenceScore, compare

#: token ids [n] -> fp32 logits [n, vocab] of one model
Score = Callable[[list[int]], Logits]

_SIGNIFICANT_DIGITS = 9


@dataclass(frozen=True)
class Evaluation:
    """Means over the predicted tokens, each with its 95 % interval. KL in nats; increase and agreement are fractions."""

    num_sequences: int
    num_tokens: int
    kl: Estimate
    top1_agreement: Estimate
    perplexity: Estimate
    baseline_perplexity: Estimate
    perplexity_increase: Estimate
    """Of the candidate over the baseline, paired by sequence: exp(difference of their cross-entropies) - 1."""

    @classmethod
    def of(cls, scores: Iterable[SequenceScore], *, seed: int) -> Evaluation:
        """Aggregate sequences' scores; `seed` is the bootstrap's. Raises UserError with fewer than 4 sequences."""
        scores = tuple(scores)
        weights = [score.num_tokens for score in scores]

        def mean(numerators: Sequence[float]) -> Estimate:
            return ratio_of_sums(numerators, weights, seed=seed)

        def perplexity(cross_entropy: Estimate, minus: float = 0.0) -> Estimate:
            return Estimate(*(math.exp(value) - minus for value in asdict(cross_entropy).values()))

        kl = mean([score.kl for score in scores])
        agreement = mean([score.num_top1_agreements for score in scores])
        candidate = [score.negative_log_likelihood for score in scores]
        baseline = [score.baseline_negative_log_likelihood for score in scores]
        increase = mean([ours - theirs for ours, theirs in zip(candidate, baseline, strict=True)])
        return cls(
            num_sequences=len(scores),
            num_tokens=sum(weights),
            kl=Estimate(kl.value, max(kl.low, 0.0), kl.high),
            top1_agreement=Estimate(agreement.value, max(agreement.low, 0.0), min(agreement.high, 1.0)),
            perplexity=perplexity(mean(candidate)),
            baseline_perplexity=perplexity(mean(baseline)),
            perplexity_increase=perplexity(increase, minus=1.0),
        )

    def record(self) -> dict[str, object]:
        """Plain data for evaluation.json; floats have 9 significant digits, so that the text is stable."""
        record: dict[str, object] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Estimate):
                record[field.name] = {name: rounded(number) for name, number in asdict(value).items()}
            else:
                record[field.name] = value
        return record

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Evaluation:
        """The evaluation that a record was made of, to 9 significant digits."""
        values: dict[str, Any] = {
            name: Estimate(**value) if isinstance(value, dict) else value for name, value in record.items()
        }
        return cls(**values)


def evaluate(sequences: Sequence[Sequence[int]], score: Score, baseline: BaselineStore, *, seed: int) -> Evaluation:
    """Score a candidate sequence by sequence against the stored baseline: one sequence's logits are held at a time."""
    return Evaluation.of(scores_of(sequences, score, baseline), seed=seed)


def scores_of(sequences: Sequence[Sequence[int]], score: Score, baseline: BaselineStore) -> Iterator[SequenceScore]:
    """The same, not aggregated."""
    return (compare(ids, baseline.logits(i), score(list(ids))) for i, ids in enumerate(sequences))


def rounded(value: float) -> float:
    """`value` to 9 significant digits, so that its text is stable."""
    return float(f"{value:.{_SIGNIFICANT_DIGITS}g}")
