"""Which KV caches are worth a place in the search: what each loses alone, on every sequence, by its mean and its worst one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from artifacts.precision import KvDtype
from optimizer.evaluation import Evaluation, NoScore
from optimizer.records.ledger import Ledger
from optimizer.records.progress import Reporter
from optimizer.records.record_key import record_key
from optimizer.search.accuracy import Judge

#: nats that plans are taken to be allowed where the gate does not limit KL
USUAL_KL = 0.05
#: What one sequence may lose alone, as a multiple of what the gate allows on average: a mean hides a text that breaks.
_WORST = 4
#: A loss that takes so much of what the gate allows leaves weights as good as all of it.
_SMALL_SHARE = 0.02


@dataclass(frozen=True)
class KvLoss:
    """KL in nats per token that a KV cache costs alone, weights unquantized: of the worst set, and of the worst sequence.

    `refusal` says why a cache cannot be had at all.
    """

    kl: float = 0.0
    worst_kl: float = 0.0
    worst_sequence: str = ""
    refusal: str = ""

    @classmethod
    def measured(cls, judge: Judge) -> KvLoss:
        """On `judge`'s workbench, over the whole of all sequences."""
        try:
            scores = judge.scores(judge.baseline)
        except NoScore as error:
            return cls(refusal=str(error))
        sequences = {
            f"sequence {number} of {len(found)} of {name}": score.kl / score.num_tokens
            for name, found in scores.items()
            for number, score in enumerate(found, start=1)
        }
        worst = max(sequences, key=lambda sequence: sequences[sequence])
        means = [Evaluation.of(found, seed=judge.seed).kl.value for found in scores.values()]
        return cls(max(means), sequences[worst], worst)

    def too_much(self, limit: float) -> bool:
        """Whether it leaves nothing of a mean KL of `limit`, or breaks a sequence."""
        return bool(self.refusal) or self.kl > limit or self.worst_kl > _WORST * limit

    def surely_fails(self, max_kl: float | None) -> bool:
        """Whether no plan over it can be within a gate that limits KL so, or not at all."""
        return bool(self.refusal) or (max_kl is not None and self.kl > max_kl)

    def __str__(self) -> str:
        if self.refusal:
            return self.refusal
        return f"alone it costs KL {self.kl:.4g}, and {self.worst_kl:.4g} in {self.worst_sequence}"


def measure_kv_losses(ledger: Ledger, reporter: Reporter, judge: Judge, dtypes: Sequence[KvDtype]) -> dict[KvDtype, KvLoss]:
    """What each of `dtypes` loses. The dtype that the unquantized model has loses nothing, and is not measured."""
    losses: dict[KvDtype, KvLoss] = {}
    for dtype in reporter.track(dtypes, "loss of KV caches", len(dtypes)):

        def measure(dtype: KvDtype = dtype) -> dict[str, Any]:
            is_exact = judge.workbench.exact().kv_dtype == dtype
            return asdict(KvLoss() if is_exact else KvLoss.measured(judge.on(dtype)))

        key = record_key(f"sensitivity/kv_cache/{dtype}", **judge.on(dtype).depends_on(judge.baseline))
        losses[dtype] = KvLoss(**ledger.once(key, measure))
    return losses


def worth_searching(losses: Mapping[KvDtype, KvLoss], max_kl: float | None) -> dict[KvDtype, KvLoss]:
    """Those that do not lose too much or, where all do, the one of least loss that may still pass; in the order of `losses`."""
    kept = {dtype: loss for dtype, loss in losses.items() if not loss.too_much(max_kl or USUAL_KL)}
    if kept:
        return kept
    possible = [dtype for dtype, loss in losses.items() if not loss.surely_fails(max_kl)]
    return {dtype: losses[dtype] for dtype in sorted(possible, key=lambda d: losses[d].kl)[:1]}


def lossless_enough(losses: Mapping[KvDtype, KvLoss], kv_ms: Mapping[KvDtype, float], limit: float) -> KvDtype:
    """What plans have that try weights alone: the fastest whose loss is a small part of `limit`, or that of least loss."""
    small = [dtype for dtype in losses if losses[dtype].kl <= _SMALL_SHARE * limit]
    return min(small, key=lambda d: kv_ms[d]) if small else min(losses, key=lambda d: losses[d].kl)


def no_cache_passes(offered: Mapping[KvDtype, KvLoss], others: Mapping[KvDtype, KvLoss], max_kl: float | None) -> str:
    """Why no plan can be within a mean KL of `max_kl`, and which of the `others`, that were not on offer, leave room."""
    limit = max_kl or USUAL_KL
    reasons = [f"{dtype}: {loss}" for dtype, loss in offered.items()]
    room = [f"with {dtype} it is KL {loss.kl:.4g}" for dtype, loss in others.items() if not loss.too_much(limit)]
    advice = f"{', '.join(room)}: offer it in search.space: precision.kv_cache" if room else "no other has kernels here"
    return "; ".join(
        [f"no KV cache on offer leaves room within the KL allowed, {limit:.4g}, whatever the weights", *reasons, advice]
    )
