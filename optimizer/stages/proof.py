"""Stage: the best trials on texts and items that the search never saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

from artifacts.precision import Plan, plan_bytes
from optimizer.evaluation import Comparison, Gate, ItemSet, SequenceScore, TextComparison, compare_on_text
from optimizer.records.record_key import record_key
from optimizer.search.accuracy import Judge
from optimizer.search.bands import plan_of
from optimizer.search.items import ItemJudge
from optimizer.search.precision import Trial
from optimizer.search.proof import Proven, finalists, prove
from optimizer.search.refusal import explain
from optimizer.search.texts import ProofText
from optimizer.search.warm_start import kv_dtype_of
from optimizer.stages.accuracy import judge_on
from optimizer.stages.job import Job
from optimizer.stages.search import Searched
from runtime.prompts import Prompts


@dataclass(frozen=True)
class ProofStage:
    """Proves the first trial that passes, by the user's rule; `judge` scores on what `texts` begin with."""

    job: Job
    judge: Judge
    texts: Mapping[str, ProofText]
    searched: Searched
    prompts: Prompts
    sets: Sequence[ItemSet]

    def run(self) -> Proven:
        """NothingPasses where no finalist does."""
        spec, gate, items = self.job.spec, Gate(**self.job.spec.gate.model_dump()), self._items()
        margins = {one.name: one.margin for one in spec.evaluation.sets if one.format == "text"}

        def on_texts(trial: Trial) -> dict[str, TextComparison]:
            """Up to the first that is not passed."""
            found: dict[str, TextComparison] = {}
            for name, text in self.texts.items():
                scores = partial(self._scores, trial, name)
                found[name] = compare_on_text(text.looks, scores, gate.with_margin(margins.get(name)), seed=self.judge.seed)
                if not found[name].verdict.passed:
                    break
            return found

        def on_items(trial: Trial) -> dict[str, Comparison]:
            own = replace(items, workbench=self._on_cache(self.judge, trial).workbench)
            return own.compare(self._plan(trial), f"asking trial {trial.number}", self.job.reporter)

        def why(trial: Trial, heard: Mapping[str, TextComparison]) -> list[str]:
            return explain(gate, self._on_cache(self.judge, trial), self._plan(trial), margins, heard)

        candidates = finalists(self.searched.trials, spec.search.choice, self._size_bytes)
        return prove(candidates, on_texts, on_items, why)

    def _items(self) -> ItemJudge:
        original, baseline = self.job.unquantized(self.judge.workbench)
        config, answers = self.job.source.generation_config, self.job.folder / "answers"
        return ItemJudge.make(self.sets, original, baseline, self.prompts, config, answers, self.job.spec.seed)

    def _scores(self, trial: Trial, name: str, start: int, stop: int) -> list[SequenceScore]:
        """Of sequences `start` to `stop` of a text: what they are decides their record, and no look or limit does."""
        plan, judge = self._plan(trial), self._on_cache(self._judge(name, start, stop), trial)

        def measure() -> list[dict[str, float]]:
            with self.job.reporter.task(f"proving trial {trial.number} on unseen text", judge.num_sequences) as advance:
                return [asdict(score) for score in judge.scores(plan, advance)[name]]

        records = self.job.ledger.once(record_key("proof", **judge.depends_on(plan)), measure)
        return [SequenceScore(**record) for record in records]  # type: ignore[arg-type]

    def _judge(self, name: str, start: int, stop: int) -> Judge:
        if start == 0:
            return self.judge.only(name)
        more = {name: self.texts[name].sequences(start, stop)}
        return judge_on(self.job, self.judge.workbench, more, self.judge.own, keeps_logits=False)

    def _on_cache(self, judge: Judge, trial: Trial) -> Judge:
        return judge.on(kv_dtype_of(trial.choice))

    def _plan(self, trial: Trial) -> Plan:
        return plan_of(self.searched.bands, trial.choice)

    def _size_bytes(self, trial: Trial) -> float:
        return plan_bytes(self._plan(trial), self.job.base.architecture.linear_shapes())
