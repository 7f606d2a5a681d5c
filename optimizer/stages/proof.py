"""Stage: the best trials on texts and items that the search never saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from artifacts.precision import Plan, plan_bytes
from optimizer.evaluation import Comparison, Evaluation, Gate, ItemSet
from optimizer.records.record_key import record_key
from optimizer.search.accuracy import Judge
from optimizer.search.bands import plan_of
from optimizer.search.items import ItemJudge
from optimizer.search.precision import Trial
from optimizer.search.proof import Proven, finalists, prove
from optimizer.search.refusal import explain
from optimizer.search.warm_start import kv_dtype_of
from optimizer.stages.job import Job
from optimizer.stages.search import Searched
from runtime.prompts import Prompts


@dataclass(frozen=True)
class ProofStage:
    """Proves the first trial that passes, by the user's rule; `judge` scores on the texts of the proof."""

    job: Job
    judge: Judge
    searched: Searched
    prompts: Prompts
    sets: Sequence[ItemSet]

    def run(self) -> Proven:
        """NothingPasses where no finalist does."""
        spec, gate = self.job.spec, Gate(**self.job.spec.gate.model_dump())
        margins = {one.name: one.margin for one in spec.evaluation.sets if one.format == "text"}
        items = self._items()

        def comparisons(trial: Trial) -> dict[str, Comparison]:
            own = replace(items, workbench=self._on_cache(trial).workbench)
            return own.compare(self._plan(trial), f"asking trial {trial.number}", self.job.reporter)

        def why(trial: Trial) -> list[str]:
            return explain(gate, self._on_cache(trial), self._plan(trial), margins)

        candidates = finalists(self.searched.trials, spec.search.choice, self._size_bytes)
        return prove(candidates, gate, self._evaluations, comparisons, margins, why)

    def _items(self) -> ItemJudge:
        original, baseline = self.job.unquantized(self.judge.workbench)
        config, answers = self.job.source.generation_config, self.job.folder / "answers"
        return ItemJudge.make(self.sets, original, baseline, self.prompts, config, answers, self.job.spec.seed)

    def _evaluations(self, trial: Trial) -> dict[str, Evaluation]:
        plan, judge = self._plan(trial), self._on_cache(trial)

        def measure() -> dict[str, dict[str, object]]:
            with self.job.reporter.task(f"proving trial {trial.number} on unseen text", judge.num_sequences) as advance:
                return {name: evaluation.record() for name, evaluation in judge.evaluate(plan, advance).items()}

        records = self.job.ledger.once(record_key("proof", seed=judge.seed, **judge.depends_on(plan)), measure)
        return {name: Evaluation.from_record(record) for name, record in records.items()}

    def _on_cache(self, trial: Trial) -> Judge:
        return self.judge.on(kv_dtype_of(trial.choice))

    def _plan(self, trial: Trial) -> Plan:
        return plan_of(self.searched.bands, trial.choice)

    def _size_bytes(self, trial: Trial) -> float:
        return plan_bytes(self._plan(trial), self.job.base.architecture.linear_shapes())
