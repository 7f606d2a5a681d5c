"""A night, from the incumbent to the verdict. What is measured are records, so a night can be replayed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

from artifacts.manifest import Manifest
from optimizer.bundle.admission import admit
from optimizer.bundle.emit import emit
from optimizer.bundle.fingerprint import fingerprint_of
from optimizer.bundle.forged import Forged
from optimizer.nights.changes import asks_for_another, changes
from optimizer.nights.night import Change, Night, Ratio
from optimizer.records.ledger import Ledger
from optimizer.records.record_key import record_key
from optimizer.retune.accuracy import AccuracyComparison
from optimizer.retune.incumbent import Incumbent, serve_alike
from optimizer.retune.revalidation import Revalidated, Revalidation
from optimizer.retune.speed import (
    MOST_BLOCKS,
    NOISE_BLOCKS,
    REFERENCE_BLOCKS,
    MeasureBlock,
    Need,
    Speeds,
    nights_before,
    slower_than_before,
)
from optimizer.retune.verdict import cannot_tell, judged, spread_of, stays
from optimizer.run.forge import forge
from optimizer.search.proof import NothingPasses
from optimizer.stages.job import Job


@dataclass(frozen=True)
class Reference:
    """A frozen bundle, the same on all nights, that speeds are ratios to."""

    folder: Path
    digest: str


@dataclass(frozen=True)
class RetuneNight:
    """`job` writes the candidate to its output. `ledger` is the night's own, `time` is when it began, and names its records."""

    job: Job
    incumbent: Incumbent
    reference: Reference | None
    before: Sequence[Night]
    ledger: Ledger
    time: str
    measure: MeasureBlock

    def run(self) -> Night:
        """The verdict and all that it follows from. UserError, such as NotAsProvenError, for what makes the night fail."""
        self._say_what_changed()
        proof = Revalidation(self.job, self.incumbent, self.changes, self.ledger, self.time).run()
        self.job.reporter.say(f"the incumbent's proof: {proof.proof}")
        speed, slower = self._against_reference(self.incumbent.folder, self.incumbent.manifest.digest)
        night = self._night(proof, speed)
        ails = [*proof.missed, *([slower] if slower else [])]
        if not self.changes and self.incumbent.making is not None:
            records = len(self.incumbent.making.earlier.records)
            return stays(night.model_copy(update={"records_reused": records}), ails, "nothing has changed")
        try:
            forged = self._forged()
        except NothingPasses as error:
            return stays(self._counted(night), ails, f"no candidate is within the gate: {error}")
        manifest = self._emitted(forged)
        night = self._counted(night).model_copy(update={"candidate": manifest.digest})
        if serve_alike(manifest, self.incumbent.manifest):
            return stays(night, ails, "the candidate is the incumbent again: same weights, kernels and limits")
        if self.job.target.evaluated != "served":
            return cannot_tell(night, ails, "no device measures here, and modelled times promote nothing")
        return self._decided(night, forged, proof, ails)

    @cached_property
    def fingerprint(self) -> dict[str, str]:
        return fingerprint_of(self.job)

    @cached_property
    def changes(self) -> tuple[Change, ...]:
        making = self.incumbent.making
        return () if making is None else changes(making.fingerprint, self.fingerprint)

    def _decided(self, night: Night, forged: Forged, proof: Revalidated, ails: Sequence[str]) -> Night:
        """Candidate against incumbent: accuracy first, which costs least, then speed."""
        candidate, incumbent = self.job.spec.output, self.incumbent.folder
        compared = AccuracyComparison(forged, incumbent, candidate, self.ledger, self.time).run()
        night = night.model_copy(update={"accuracy": {**night.accuracy, **compared.checks}})
        if compared.missed:
            return stays(night, ails, f"the candidate is worse: {compared.missed[0]}")
        if compared.unclear:
            return cannot_tell(night, ails, f"that the candidate is no worse is not shown: {compared.unclear[0]}")
        speeds = self._speeds(forged)
        noise = speeds.beside(incumbent, incumbent, NOISE_BLOCKS, "the incumbent against itself, blocks")
        need: Need = "no slower" if proof.missed or asks_for_another(self.changes) else "faster"
        verdict, found = speeds.judged(incumbent, candidate, need)
        night = night.model_copy(update={"noise": noise, "against_incumbent": found})
        ratio, spread = found["workload"].value, spread_of(noise["workload"])
        measured = f"{ratio:.3f} x the incumbent's speed in {len(found['workload'].log_ratios)} blocks"
        if verdict == "undecided":
            told = f"too noisy to tell: {measured}, at most {MOST_BLOCKS}; the incumbent differs from itself by {spread:.1%}"
            return cannot_tell(night, ails, told)
        if verdict == ("faster" if need == "faster" else "no better"):
            why = self._why_promoted(need, measured, proof)
            if self.reference is not None:
                against, _ = self._against_reference(candidate, str(night.candidate))
                night = night.model_copy(update={"against_reference": against})
            return judged(night, "promoted", why)
        return stays(night, ails, f"the candidate is {'slower' if need == 'no slower' else 'not faster'}: {measured}")

    def _why_promoted(self, need: Need, measured: str, proof: Revalidated) -> str:
        if need == "faster":
            return f"the candidate is faster: {measured}, and not inferior on any text or set"
        reason = proof.missed[0] if proof.missed else "it is not what model.yaml asks for any more"
        return f"the candidate replaces the incumbent, because {reason}; it has {measured}"

    def _against_reference(self, bundle: Path, digest: str) -> tuple[dict[str, Ratio], str]:
        """The bundle's speed beside the reference, and how that is less than before."""
        reference = self.reference
        if reference is None or reference.digest == digest or self.job.target.evaluated != "served":
            return {}, ""
        title = "against the reference, blocks"
        found = self._speeds().beside(reference.folder, bundle, REFERENCE_BLOCKS, title)
        return found, slower_than_before(found["workload"], nights_before(self.before, digest, reference.digest))

    def _speeds(self, forged: Forged | None = None) -> Speeds:
        workload = self.incumbent.workload if forged is None else forged.kernels.workload
        return Speeds(self.ledger, self.time, workload, self.job.reporter, self.measure)

    def _forged(self) -> Forged:
        """The candidate, of as many trials as the night had when it is replayed."""
        key = record_key("trials", night=self.time)
        job = self.job
        if key in self.ledger.records:
            search = job.spec.search.model_copy(update={"trials": self.ledger.records[key]})
            job = replace(job, spec=job.spec.model_copy(update={"search": search}))
        forged = forge(job)
        self.ledger.once(key, lambda: len(forged.searched.trials))
        return replace(forged, job=self.job)

    def _emitted(self, forged: Forged) -> Manifest:
        self.job.reporter.say("writing the candidate")
        admitted = partial(admit, forged=forged, ledger=self.job.ledger, reporter=self.job.reporter)
        return emit(forged, self.job.spec.output, admitted)

    def _night(self, proof: Revalidated, speed: dict[str, Ratio]) -> Night:
        return Night(
            model=self.job.spec.name,
            time=self.time,
            verdict="failed",
            why="not judged yet",
            incumbent=self.incumbent.manifest.digest,
            reference=None if self.reference is None else self.reference.digest,
            fingerprint=self.fingerprint,
            changes=self.changes,
            proof=proof.proof,
            accuracy=dict(proof.checks),
            against_reference=speed,
        )

    def _counted(self, night: Night) -> Night:
        """With how many of the incumbent's records counted again, and how many no longer do."""
        making = self.incumbent.making
        known = set() if making is None else set(making.earlier.records)
        reused = len(known & self.job.ledger.used.keys())
        return night.model_copy(update={"records_reused": reused, "records_void": len(known) - reused})

    def _say_what_changed(self) -> None:
        say = self.job.reporter.say
        if self.incumbent.making is None:
            say("the incumbent does not carry the records of its making, as bundles do now: all is measured from scratch")
        elif not self.changes:
            say("nothing has changed since the incumbent was made")
        for change in self.changes:
            void = ", ".join(change.voids) or "nothing"
            say(f"changed: {change.name}, {change.then or 'absent'} -> {change.now or 'absent'}; void: {void}")
