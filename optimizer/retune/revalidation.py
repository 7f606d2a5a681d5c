"""The incumbent's proof, repeated on the bundle as it is served: the same bits, or why not; and the gate as it is today."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from artifacts.reader import Bundle, open_bundle
from kernels.cpu.host import host
from kernels.cpu.library import Library
from optimizer.bundle.admission import served_score
from optimizer.evaluation import Gate, SequenceScore, Subject, TextComparison, compare_all
from optimizer.measure.machine import this_machine
from optimizer.measure.workbench import CpuWorkbench
from optimizer.nights.night import Change
from optimizer.records.ledger import Ledger
from optimizer.records.record_key import record_key
from optimizer.retune.incumbent import Incumbent
from optimizer.search.accuracy import Judge
from optimizer.search.items import ItemJudge, open_sets, source_prompts
from optimizer.search.texts import ProofText
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
        judge, texts = self._judge(bundle)
        gate = Gate(**self.job.spec.gate.model_dump())
        margins = {one.name: one.margin for one in self.job.spec.evaluation.sets if one.format == "text"}
        found = {
            name: TextComparison(tuple(scores), texts[name].looks, gate.with_margin(margins.get(name)), judge.seed)
            for name, scores in self._scores(bundle, judge).items()
        }
        checks, missed = dict[str, str](), list[str]()
        for name, verdict in ((name, text.verdict) for name, text in found.items()):
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

    def _judge(self, bundle: Bundle) -> tuple[Judge, Mapping[str, ProofText]]:
        """On as much of each text as the incumbent was proved on, and the texts."""
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
        texts = TextStage(job, source_prompts(job.source), bench).run()
        heard = {name: text.sequences(0, self._num_heard(name, text)) for name, text in texts.proof.items()}
        return judge_on(job, bench, heard, texts.own), texts.proof

    def _num_heard(self, name: str, text: ProofText) -> int:
        """Sequences that the incumbent's proof took, to a look of today's."""
        then = self.incumbent.evaluation["sets"].get(name, {}).get("num_sequences", 0)
        return next((look.size for look in text.looks if look.size >= then), text.looks[-1].size)

    def _scores(self, bundle: Bundle, judge: Judge) -> dict[str, list[SequenceScore]]:
        def measure() -> dict[str, list[dict[str, Any]]]:
            with self.job.reporter.task("repeating the incumbent's proof", judge.num_sequences) as advance:
                found = judge.scores_with(served_score(bundle, judge), advance)
            return {name: [asdict(score) for score in scores] for name, scores in found.items()}

        depends = judge.depends_beside_plan(())
        records = self.ledger.once(record_key(f"proof/{bundle.manifest.digest}", night=self.night, **depends), measure)
        return {name: [SequenceScore(**score) for score in scores] for name, scores in records.items()}

    def _compared(self, found: Mapping[str, TextComparison]) -> tuple[str, bool]:
        """Whether the scores are those of the bundle's evaluation.json; and whether they differ though nothing says why."""
        then = {name: _figures(record) for name, record in self.incumbent.evaluation["sets"].items()}
        now = {name: _figures(text.evaluation.record()) for name, text in found.items()}
        differing = sorted(name for name in now.keys() | then.keys() if now.get(name) != then.get(name))
        if not differing:
            return f"the same bits: {', '.join(found)} as at its making, to 9 digits", False
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


def _figures(record: Mapping[str, Any]) -> dict[str, Any]:
    """Of a text's record what follows from its scores alone: looks and limits may be others today."""
    means = {name: estimate["value"] for name, estimate in record.items() if isinstance(estimate, dict)}
    return means | {"num_sequences": record["num_sequences"], "num_tokens": record["num_tokens"]}
