"""How far a plan is from the unquantized model, through the library that will serve it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from optimizer.evaluation import BaselineStore, Evaluation, Gate, Verdict, compare, evaluate
from optimizer.search.precision import TrialScore
from optimizer.search.texts import Tokens
from optimizer.workbench import Plan, Workbench

#: tokens on which a single layer group is probed: sensitivities only order what is tried
PROBE_TOKENS = 128


class Judge:
    """Scores plans over named sets of sequences against the baseline's stored logits."""

    def __init__(
        self, workbench: Workbench, baseline: Plan, sets: Mapping[str, Sequence[Tokens]], folder: Path, model: str, seed: int
    ) -> None:
        self._workbench, self._baseline, self._sets, self._seed = workbench, baseline, sets, seed
        self._longest = max(len(ids) for sequences in sets.values() for ids in sequences)
        score = workbench.score(baseline, self._longest)
        self._stores = {
            name: BaselineStore.load_or_score(folder, model, sequences, score) for name, sequences in sets.items()
        }

    def evaluate(self, plan: Plan, workbench: Workbench | None = None) -> dict[str, Evaluation]:
        """Set name -> evaluation of `plan`, on another workbench than the judge's if one is given."""
        score = (workbench or self._workbench).score(plan, self._longest)
        return {name: evaluate(self._sets[name], score, store, seed=self._seed) for name, store in self._stores.items()}

    def probe_kl(self, change: Plan, workbench: Workbench | None = None) -> float:
        """Mean KL in nats of the baseline with only `change` applied, over the first tokens of the first set."""
        name, sequences = next(iter(self._sets.items()))
        ids = sequences[0][:PROBE_TOKENS]
        score = (workbench or self._workbench).score({**self._baseline, **change}, len(ids))
        result = compare(ids, self._stores[name].logits(0), score(ids))
        return result.kl / result.num_tokens


def judge_all(gate: Gate, evaluations: Mapping[str, Evaluation]) -> dict[str, Verdict]:
    """Every set must pass the gate."""
    return {name: gate.judge(evaluation) for name, evaluation in evaluations.items()}


def trial_score(gate: Gate, evaluations: Mapping[str, Evaluation]) -> TrialScore:
    """KL of the worst set, and the worst miss of any check as a fraction of its limit."""
    checks = [check for verdict in judge_all(gate, evaluations).values() for check in verdict.checks]
    return TrialScore(
        kl=max(evaluation.kl.value for evaluation in evaluations.values()),
        violation=max(-check.margin / check.limit for check in checks),
    )
