"""How far a plan is from the unquantized model, through the library that will serve it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType

from artifacts.precision import KvDtype, Plan, Scheme
from optimizer.evaluation import (
    BaselineLogits,
    BaselineStore,
    Evaluation,
    FreshLogits,
    Gate,
    Look,
    NoScore,
    Score,
    SequenceScore,
    Verdict,
    compare,
    evaluate,
)
from optimizer.evaluation.confidence import MIN_SEQUENCES, reach
from optimizer.evaluation.evaluation import scores_of
from optimizer.evaluation.metrics import Logits
from optimizer.measure.workbench import Workbench
from optimizer.records.plan_digest import plan_digest
from optimizer.records.progress import Reporter
from optimizer.search.precision import TrialScore
from optimizer.search.texts import Tokens

#: What a single layer group is probed on: so many sequences, evenly spaced, and so many tokens of each, of which the last half
#: counts. Sensitivities only order what is tried; the order is that of whole sequences where tokens have some context
#: (decision 0033).
_PROBE_SEQUENCES = 4
_PROBE_TOKENS = 24


@dataclass(frozen=True)
class Judge:
    """Scores plans, as `workbench` runs them, over named sets of sequences against the unquantized model's logits.

    `baseline` is the plan that loses nothing on `workbench`, which a probe changes one group of.
    """

    workbench: Workbench
    baseline: Plan
    sets: Mapping[str, Sequence[Tokens]]
    stores: Mapping[str, BaselineLogits]
    seed: int
    model: str = ""
    """What the unquantized model's logits follow from beside the texts; empty where nothing is recorded."""
    own: frozenset[str] = frozenset()
    """Sets whose tokens the unquantized model drew itself."""

    @classmethod
    def make(
        cls,
        workbench: Workbench,
        baseline: Plan,
        sets: Mapping[str, Sequence[Tokens]],
        folder: Path | None,
        model: str,
        seed: int,
        reporter: Reporter,
        own: frozenset[str] = frozenset(),
    ) -> Judge:
        """Scores the baseline, with an fp32 KV cache, where `folder` does not have its logits yet; `model` names its files.

        Without a folder nothing is kept: the baseline runs beside each plan.
        """
        model = json.dumps([model, workbench.numbers, plan_digest(baseline)])

        def exact_score() -> Score:
            return workbench.exact().score(baseline, _longest(sets))

        if folder is None:
            fresh = {name: FreshLogits(ids, exact_score) for name, ids in sets.items()}
            return cls(workbench, baseline, sets, fresh, seed, model, own)
        exact = exact_score()
        with reporter.task("logits of the unquantized model", _num_sequences(sets)) as advance:
            score = _ticking(exact, advance)
            stores = {name: BaselineStore.load_or_score(folder, model, ids, score) for name, ids in sets.items()}
        return cls(workbench, baseline, sets, stores, seed, model, own)

    def depends_on(self, plan: Plan) -> dict[str, object]:
        """All that the scores of `plan` follow from, as plain data: what a record of them is kept under."""
        return {"plan": plan_digest(plan, self.workbench.kv_dtype), **self.depends_beside_plan(plan.values())}

    def depends_beside_plan(self, schemes: Iterable[Scheme]) -> dict[str, object]:
        """What the scores of plans of `schemes` follow from beside the plan itself."""
        weights, numbers = self.workbench.store.depends_on(schemes), self.workbench.numbers
        own = sorted(self.own & self.sets.keys())
        return {"model": self.model, "weights": weights, "numbers": numbers, "texts": self._texts_sha256, "own": own}

    @cached_property
    def _texts_sha256(self) -> str:
        return sha256(json.dumps(list(self.sets.items())).encode()).hexdigest()

    def on(self, kv_dtype: KvDtype) -> Judge:
        """The same over a KV cache of `kv_dtype`."""
        return replace(self, workbench=replace(self.workbench, kv_dtype=kv_dtype))

    def only(self, name: str) -> Judge:
        """The same on one of its sets."""
        return replace(self, sets={name: self.sets[name]}, stores={name: self.stores[name]})

    def scores(self, plan: Plan, on_sequence: Callable[[], object] = lambda: None) -> dict[str, list[SequenceScore]]:
        """Set name -> the score of each sequence under `plan`; `on_sequence` is called after each of `num_sequences`."""
        scores: dict[str, list[SequenceScore]] = {name: [] for name in self.sets}
        for name, score in self._score_each(plan):
            scores[name].append(score)
            on_sequence()
        return scores

    def evaluate(self, plan: Plan, on_sequence: Callable[[], object] = lambda: None) -> dict[str, Evaluation]:
        """Set name -> evaluation of `plan`, likewise."""
        return {name: Evaluation.of(scores, seed=self.seed) for name, scores in self.scores(plan, on_sequence).items()}

    def evaluate_until_hopeless(self, plan: Plan, gate: Gate) -> dict[str, Evaluation]:
        """The same, but ended at a quarter, half or three quarters of a set where `gate` is out of reach of `plan` by then.

        Of that set it is what was scored so far, which misses the gate; the sets behind it are left out. A plan that the proof
        could pass is so far within its limits that looks at 95 % end about one in a hundred of its kind.
        """
        scores: dict[str, list[SequenceScore]] = {}
        for name, score in self._score_each(plan):
            found = scores.setdefault(name, [])
            found.append(score)
            is_look = len(found) % max(MIN_SEQUENCES, len(self.sets[name]) // 4) == 0
            if is_look and gate.is_hopeless(Evaluation.of(found, seed=self.seed)):
                break
        return {name: Evaluation.of(found, seed=self.seed) for name, found in scores.items()}

    def evaluate_with(self, score: Score, on_sequence: Callable[[], object] = lambda: None) -> dict[str, Evaluation]:
        """The same of what computes `score`, whatever plan and workbench that has."""
        score = _ticking(score, on_sequence)
        return {
            name: evaluate(self.sets[name], score, store, seed=self.seed, is_own=name in self.own)
            for name, store in self.stores.items()
        }

    def scores_with(self, score: Score, on_sequence: Callable[[], object] = lambda: None) -> dict[str, list[SequenceScore]]:
        """The same, sequence by sequence."""
        score = _ticking(score, on_sequence)
        return {
            name: list(scores_of(self.sets[name], score, store, is_own=name in self.own)) for name, store in self.stores.items()
        }

    def _score_each(self, plan: Plan) -> Iterator[tuple[str, SequenceScore]]:
        for name, sequences in self.sets.items():
            for i, logits in enumerate(self.workbench.score_each(plan, sequences)):
                yield name, compare(sequences[i], self.stores[name].logits(i), logits, is_own=name in self.own)

    @property
    def num_sequences(self) -> int:
        return _num_sequences(self.sets)

    def probe_kl(self, change: Plan) -> float:
        """Mean KL in nats of the baseline with only `change` applied, over parts of some sequences, all in one step."""
        every = [(name, i) for name, sequences in self.sets.items() for i in range(len(sequences))]
        chosen = every[:: max(1, len(every) // _PROBE_SEQUENCES)][:_PROBE_SEQUENCES]
        # a token behind those that are computed, for the last one to predict
        texts = [self.sets[name][i][: _PROBE_TOKENS + 1] for name, i in chosen]
        num_rows = [len(text) // 2 for text in texts]
        candidates = self.workbench.score_at_once(
            {**self.baseline, **change}, [text[:-1] for text in texts], num_logits=max(num_rows)
        )
        scores = [
            compare(text[-rows - 1 :], self.stores[name].logits(i)[len(text) - 1 - rows : len(text) - 1], candidate[-rows:])
            for (name, i), text, rows, candidate in zip(chosen, texts, num_rows, candidates, strict=True)
        ]
        return sum(score.kl for score in scores) / sum(score.num_tokens for score in scores)


def judge_all(
    gate: Gate, evaluations: Mapping[str, Evaluation], margins: Mapping[str, float] = MappingProxyType({})
) -> dict[str, Verdict]:
    """Every set must pass the gate, and keep its own margin on the perplexity increase where it has one."""
    return {name: gate.with_margin(margins.get(name)).judge(evaluation) for name, evaluation in evaluations.items()}


def score_plan(judge: Judge, plan: Plan, gate: Gate, proof: Mapping[str, Look]) -> TrialScore:
    """Of a trial of `plan`; `proof` as in `trial_score`."""
    try:
        return trial_score(gate, judge.evaluate_until_hopeless(plan, gate), proof)
    except NoScore as error:
        return TrialScore.refused(str(error))


def trial_score(gate: Gate, evaluations: Mapping[str, Evaluation], proof: Mapping[str, Look]) -> TrialScore:
    """KL and violation of the worst set: by what the last look of its `proof` would miss, if the plan is as it seems here.

    A trial decides nothing that the proof can decide better. Its few sequences are read as the proof's many would be, with
    an interval about the same value that is narrower by the root of their ratio.
    """
    as_proved = {name: evaluation.narrowed(_narrowing(evaluation, proof[name])) for name, evaluation in evaluations.items()}
    return TrialScore(
        kl=max(evaluation.kl.value for evaluation in evaluations.values()),
        violation=max(verdict.violation for verdict in judge_all(gate, as_proved).values()),
        is_hopeless=any(gate.is_hopeless(evaluation) for evaluation in evaluations.values()),
    )


def _narrowing(evaluation: Evaluation, look: Look) -> float:
    return math.sqrt(evaluation.num_sequences / look.size) * reach(look.level) / reach(evaluation.level)


def _ticking(score: Score, tick: Callable[[], object]) -> Score:
    def ticked(token_ids: list[int]) -> Logits:
        logits = score(token_ids)
        tick()
        return logits

    return ticked


def _num_sequences(sets: Mapping[str, Sequence[Tokens]]) -> int:
    return sum(map(len, sets.values()))


def _longest(sets: Mapping[str, Sequence[Tokens]]) -> int:
    return max(len(ids) for sequences in sets.values() for ids in sequences)
