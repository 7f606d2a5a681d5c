"""The candidate as it is served: within the gate, and against the incumbent not inferior on any text or set."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

from artifacts.reader import Bundle, open_bundle
from kernels.cpu.host import host
from optimizer.assessment.bundle import BundleContender
from optimizer.bundle.admission import served_score
from optimizer.bundle.forged import Forged
from optimizer.evaluation import Check, Estimate, Evaluation, Gate, SequenceScore, compare_on
from optimizer.evaluation.confidence import ratio_of_sums
from optimizer.evaluation.gate import Outcome
from optimizer.records.ledger import Ledger
from optimizer.records.record_key import record_key
from optimizer.search.accuracy import judge_all
from optimizer.search.items import open_sets, source_prompts

#: where the gate does not limit the perplexity
USUAL_INCREASE = 0.01

#: what was checked, what came of it, and that in words
Result = tuple[str, Outcome, str]


@dataclass(frozen=True)
class Compared:
    """`checks` says what came of each, `missed` what the candidate fails, `unclear` what is too little to tell by."""

    checks: Mapping[str, str]
    missed: tuple[str, ...]
    unclear: tuple[str, ...]


@dataclass(frozen=True)
class AccuracyComparison:
    """Of the bundle in `candidate`, which `forged` became, on the texts and sets of its proof. Every result is a record."""

    forged: Forged
    incumbent: Path
    candidate: Path
    ledger: Ledger
    night: str

    def run(self) -> Compared:
        spec = self.forged.job.spec
        gate = Gate(**spec.gate.model_dump())
        margins = {one.name: one.margin for one in spec.evaluation.sets if one.format == "text"}
        incumbent, candidate = _opened(self.incumbent), _opened(self.candidate)
        ours = self._scores(candidate)
        evaluations = {name: Evaluation.of(found, seed=spec.seed) for name, found in ours.items()}
        results = list[Result]()
        for name, verdict in judge_all(gate, evaluations, margins).items():
            if self._is_as_proved(name, evaluations[name]):
                verdict = self.forged.proven.texts[name].verdict  # which may have heard more
            results.append((f"{name}, gate", verdict.outcome, "; ".join(map(str, verdict.checks))))
        if incumbent.read("tokenizer.json") != candidate.read("tokenizer.json"):
            return _of([*results, ("against the incumbent", "pass", "not compared: it has another tokenizer")])
        theirs = self._scores(incumbent)
        for name in ours:
            limit = gate.with_margin(margins.get(name)).max_perplexity_increase or USUAL_INCREASE
            increase = perplexity_increase(theirs[name], ours[name], spec.seed)
            check = Check("perplexity_increase", increase, limit, len(ours[name]))
            results.append((f"{name}, against the incumbent", check.outcome, str(check)))
        return _of(results + self._items(incumbent, candidate))

    def _is_as_proved(self, name: str, served: Evaluation) -> bool:
        """Whether the bundle scores what the proof of its plan began with as that did, to 9 digits."""
        return served.record() == self.forged.proven.texts[name].first.record()

    def _scores(self, bundle: Bundle) -> dict[str, list[SequenceScore]]:
        judge, reporter = self.forged.proof, self.forged.job.reporter

        def measure() -> dict[str, list[tuple[float, ...]]]:
            with reporter.task(f"scoring {bundle.manifest.digest[:12]}", judge.num_sequences) as advance:
                found = judge.scores_with(served_score(bundle, judge), advance)
            return {name: [astuple(score) for score in scores] for name, scores in found.items()}

        depends = judge.depends_beside_plan(())
        records = self.ledger.once(record_key(f"scores/{bundle.manifest.digest}", night=self.night, **depends), measure)
        return {name: [SequenceScore(*score) for score in scores] for name, scores in records.items()}  # type: ignore[arg-type]

    def _items(self, incumbent: Bundle, candidate: Bundle) -> list[Result]:
        job = self.forged.job

        def measure() -> list[Result]:
            sets = open_sets(job.spec.evaluation, source_prompts(job.source), job.spec.seed, job.reporter)
            if not sets:
                return []
            both = BundleContender(incumbent.root), BundleContender(candidate.root)
            found = []
            with job.reporter.task("asking incumbent and candidate", sum(len(one.items) for one in sets)) as advance:
                for one in sets:
                    comparison = compare_on(one, *both, seed=job.spec.seed, on_item=advance)
                    verdict = comparison.verdict
                    found.append((f"{one.name}, against the incumbent", verdict.outcome, str(verdict.checks[0])))
            return found

        digests = incumbent.manifest.digest, candidate.manifest.digest
        sets = [one.model_dump(mode="json") for one in job.spec.evaluation.sets]
        key = record_key("items", bundles=digests, night=self.night, sets=sets)
        return [(name, outcome, line) for name, outcome, line in self.ledger.once(key, measure)]


def perplexity_increase(incumbent: list[SequenceScore], candidate: list[SequenceScore], seed: int) -> Estimate:
    """Of the candidate over the incumbent, paired by sequence, as a fraction."""
    more = [
        ours.negative_log_likelihood - theirs.negative_log_likelihood for theirs, ours in zip(incumbent, candidate, strict=True)
    ]
    increase = ratio_of_sums(more, [score.num_tokens for score in candidate], seed=seed)
    return Estimate(*(math.exp(value) - 1 for value in asdict(increase).values()))


def _opened(folder: Path) -> Bundle:
    return open_bundle(folder, machine=host().machine, cpu_flags=host().flags)


def _of(results: Sequence[Result]) -> Compared:
    def told(wanted: Outcome) -> tuple[str, ...]:
        return tuple(f"{name}: {line}" for name, outcome, line in results if outcome == wanted)

    return Compared({name: line for name, _, line in results}, told("fail"), told("inconclusive"))
