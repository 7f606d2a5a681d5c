"""The incumbent's proof, repeated on the bundle as it is served: the same bits, or why not; and the gate as it is today."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from artifacts.precision import KvDtype
from artifacts.reader import Bundle, open_bundle
from kernels.cpu.host import host
from kernels.cpu.library import Library
from optimizer.bundle.admission import score_bundle
from optimizer.evaluation import Evaluation, Gate, Subject, compare_all
from optimizer.measure.machine import this_machine
from optimizer.measure.workbench import CpuWorkbench
from optimizer.nights.night import Change
from optimizer.records.ledger import Ledger
from optimizer.records.record_key import record_key
from optimizer.retune.incumbent import Incumbent
from optimizer.search.accuracy import Judge, judge_all
from optimizer.search.items import ItemJudge, open_sets, source_prompts
from optimizer.stages.accuracy import judge_on
from optimizer.stages.job import Job
from optimizer.stages.texts import TextStage
from runtime.loading import load

_SERVING = ("tokenizer.json", "chat_template.jinja")


@dataclass(frozen=True)
class Revalidated:
    """`proof` says in a line whether bits are as they were, `checks` what came of each text and set, `missed` what misses."""

    proof: str
    checks: Mapping[str, str]
    missed: tuple[str, ...]


@dataclass(frozen=True)
class Revalidation:
    """On the incumbent's own library, so that nothing is compiled, and what changed since decides no bit.

    The texts are those of its making, where checkpoint and evaluation are: its records have them.
    """

    job: Job
    incumbent: Incumbent
    changes: Sequence[Change]
    ledger: Ledger
    """The night's."""
    night: str

    def run(self) -> Revalidated:
        if self.job.target.evaluated != "served":
            return Revalidated("not repeated: a GPU's accuracy is an emulation's, which the bundle was not run for", {}, ())
        bundle = open_bundle(self.incumbent.folder, machine=host().machine, cpu_flags=host().flags)
        if other := self._other_model(bundle):
            return Revalidated(f"not repeated: {other}", {}, (f"it is of another model: {other}",))
        judge = self._judge(bundle)
        found = self._scores(bundle, judge)
        gate = Gate(**self.job.spec.gate.model_dump())
        margins = {one.name: one.margin for one in self.job.spec.evaluation.sets if one.format == "text"}
        evaluations = {name: Evaluation.from_record(record) for name, record in found.items()}
        checks, missed = dict[str, str](), list[str]()
        for name, verdict in judge_all(gate, evaluations, margins).items():
            checks[name] = "; ".join(map(str, verdict.checks))
            if not verdict.passed:
                missed.append(f"on {name}: {verdict.shortfall()}".replace("\n", "; "))
        proof, unexplained = self._compared(found)
        if unexplained:
            missed.append(proof)
        if self._numbers_may_differ or unexplained:
            for name, (passed, line) in self._items(bundle, judge).items():
                checks[name] = line
                if not passed:
                    missed.append(f"on {name}: {line}")
        return Revalidated(proof, checks, tuple(missed))

    def _other_model(self, bundle: Bundle) -> str:
        """How today's checkpoint cannot be compared with the incumbent, token by token; empty if it can."""
        if bundle.manifest.architecture.vocab_size != self.job.source.architecture.vocab_size:
            return "the checkpoint has another vocabulary"
        if bundle.read("tokenizer.json").decode() != self.job.source.tokenizer_json:
            return "the checkpoint has another tokenizer"
        return ""

    def _judge(self, bundle: Bundle) -> Judge:
        manifest, job = bundle.manifest, self.job
        (kernels,) = manifest.kernels
        bench = CpuWorkbench(
            architecture=job.original.architecture,
            store=job.original,
            kv_dtype=manifest.precision.kv_cache,
            kv_block_size=manifest.serving.kv_block_size,
            library=Library(bundle.path(kernels.library)) if kernels.library else None,
            num_threads=min(manifest.serving.num_threads, host().num_cores),
            constants=kernels.constants,
            machine=self.incumbent.machine(this_machine()),
        )
        first: KvDtype = job.space.precision.kv_cache[0]  # which a run samples its texts over
        own = replace(job, ledger=self.ledger)
        texts = TextStage(own, source_prompts(job.source), replace(bench, kv_dtype=first)).run()
        return judge_on(own, bench, texts.proof)

    def _scores(self, bundle: Bundle, judge: Judge) -> dict[str, Any]:
        def measure() -> dict[str, dict[str, object]]:
            with self.job.reporter.task("repeating the incumbent's proof", judge.num_sequences) as advance:
                return {name: evaluation.record() for name, evaluation in score_bundle(bundle, judge, advance).items()}

        depends = judge.depends_beside_plan(())
        key = record_key(f"proof/{bundle.manifest.digest}", night=self.night, seed=judge.seed, **depends)
        return self.ledger.once(key, measure)

    def _compared(self, found: Mapping[str, Any]) -> tuple[str, bool]:
        """Whether the scores are those of the bundle's evaluation.json; and whether they differ though nothing says why."""
        then = self.incumbent.evaluation["sets"]
        differing = sorted(name for name in found.keys() | then.keys() if found.get(name) != then.get(name))
        if not differing:
            return f"the same bits: all {len(found)} texts score as at its making, to 9 digits", False
        reasons = [change.name for change in self.changes if change.voids]
        where = ", ".join(differing)
        if self.incumbent.making is None:
            return f"other scores on {where}: the incumbent does not carry the texts of its proof", False
        if reasons:
            return f"other scores on {where}, where these have changed: {', '.join(reasons)}", False
        return f"other scores on {where}, and nothing that decides them has changed: the machine or a file is at fault", True

    @property
    def _numbers_may_differ(self) -> bool:
        return self.incumbent.making is None or any({"codes", "accuracy"} & set(change.voids) for change in self.changes)

    def _items(self, bundle: Bundle, judge: Judge) -> dict[str, tuple[bool, str]]:
        """Set of items -> whether it is passed, and how. With the bits of its proof it would answer as it did."""
        job, prompts = self.job, source_prompts(self.job.source)

        def measure() -> dict[str, tuple[bool, str]]:
            sets = open_sets(job.spec.evaluation, prompts, job.spec.seed, job.reporter)
            if not sets:
                return {}
            original, baseline = job.unquantized(judge.workbench)
            folder = job.folder / "answers" / bundle.manifest.digest
            items = ItemJudge.make(sets, original, baseline, prompts, job.source.generation_config, folder, job.spec.seed)
            with job.reporter.task("asking the incumbent", sum(len(one.items) for one in sets)) as advance:
                served = Subject.served(load(Path(bundle.root)))
                compared = compare_all(sets, items.baseline, served, seed=job.spec.seed, on_item=advance)
            return {
                name: (comparison.verdict.passed, str(comparison.verdict.checks[0])) for name, comparison in compared.items()
            }

        sets = [one.model_dump(mode="json") for one in job.spec.evaluation.sets]
        key = record_key(f"items/{bundle.manifest.digest}", night=self.night, sets=sets, model=job.sources)
        return self.ledger.once(key, measure)
