"""One candidate against its baseline over one set of sequences."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace

from optimizer.evaluation.baseline import BaselineLogits
from optimizer.evaluation.confidence import Estimate, ratio_of_sums
from optimizer.evaluation.metrics import Logits, SequenceScore, compare

#: token ids [n] -> fp32 logits [n, vocab] of one model
Score = Callable[[list[int]], Logits]

_SIGNIFICANT_DIGITS = 9
UNHEARD_KL = 2.0
"""One sequence in dozens loses several times the mean KL. Where it was not heard a bootstrap knows nothing of it, and errs in
10 % of cases for 2.5; so the upper end leaves room for one that loses twice as much as the worst heard (decision 0056)."""


@dataclass(frozen=True)
class Evaluation:
    """Means over the predicted tokens, each with its interval. KL in nats; increase and agreement are fractions."""

    num_sequences: int
    num_tokens: int
    kl: Estimate
    top1_agreement: Estimate
    perplexity: Estimate
    baseline_perplexity: Estimate
    perplexity_increase: Estimate
    """Of the candidate over the baseline, paired by sequence: exp(difference of their cross-entropies) - 1.

    On text that the baseline drew itself it is the expected one, exp(KL) - 1.
    """
    level: float = 0.95
    """Confidence of each interval, two-sided."""

    @classmethod
    def of(cls, scores: Iterable[SequenceScore], *, seed: int, level: float = 0.95) -> Evaluation:
        """Aggregate sequences' scores; `seed` is the bootstrap's. Raises UserError with fewer than 4 sequences."""
        scores = tuple(scores)
        weights = [score.num_tokens for score in scores]

        def mean(numerators: Sequence[float], unheard: float = 0.0) -> Estimate:
            return ratio_of_sums(numerators, weights, seed=seed, level=level, unheard=unheard)

        def perplexity(cross_entropy: Estimate, minus: float = 0.0) -> Estimate:
            return Estimate(*(math.exp(value) - minus for value in asdict(cross_entropy).values()))

        kl = mean([score.kl for score in scores], UNHEARD_KL)
        agreement = mean([score.num_top1_agreements for score in scores])
        candidate = [score.negative_log_likelihood for score in scores]
        baseline = [score.baseline_negative_log_likelihood for score in scores]
        own = all(score.is_own for score in scores)
        increase = kl if own else mean([score.log_likelihood_lost for score in scores])
        return cls(
            num_sequences=len(scores),
            num_tokens=sum(weights),
            kl=Estimate(kl.value, max(kl.low, 0.0), kl.high),
            top1_agreement=Estimate(agreement.value, max(agreement.low, 0.0), min(agreement.high, 1.0)),
            perplexity=perplexity(mean(candidate)),
            baseline_perplexity=perplexity(mean(baseline)),
            perplexity_increase=perplexity(increase, minus=1.0),
            level=level,
        )

    def narrowed(self, factor: float) -> Evaluation:
        """The same values with every interval `factor` times as wide: what more sequences like these would give."""

        def narrow(estimate: Estimate) -> Estimate:
            value = estimate.value
            return Estimate(value, value + factor * (estimate.low - value), value + factor * (estimate.high - value))

        estimates = {f.name: narrow(e) for f in fields(self) if isinstance(e := getattr(self, f.name), Estimate)}
        return replace(self, **estimates)  # type: ignore[arg-type]

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


def evaluate(
    sequences: Sequence[Sequence[int]], score: Score, baseline: BaselineLogits, *, seed: int, is_own: bool = False
) -> Evaluation:
    """Score a candidate sequence by sequence against the baseline: one sequence's logits are held at a time."""
    return Evaluation.of(scores_of(sequences, score, baseline, is_own=is_own), seed=seed)


def scores_of(
    sequences: Sequence[Sequence[int]], score: Score, baseline: BaselineLogits, *, is_own: bool = False
) -> Iterator[SequenceScore]:
    """The same, not aggregated."""
    return (compare(ids, baseline.logits(i), score(list(ids)), is_own=is_own) for i, ids in enumerate(sequences))


def rounded(value: float) -> float:
    """`value` to 9 significant digits, so that its text is stable."""
    return float(f"{value:.{_SIGNIFICANT_DIGITS}g}")
