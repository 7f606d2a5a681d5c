"""Stage of a worker: it makes the judge of a search that another process runs, shows that it is the same, and scores."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from optimizer.evaluation import Gate, Look
from optimizer.records.hold import RUNS
from optimizer.records.holder import Holder
from optimizer.records.lease import RollCall
from optimizer.records.ledger import Ledger
from optimizer.records.patient_storage import PATIENCE_S
from optimizer.search.accuracy import Judge, score_plan
from optimizer.search.items import source_prompts
from optimizer.search.offer import CannotJoin, Offer, probe_each
from optimizer.search.precision import TrialScore
from optimizer.search.warm_start import Assignment, kv_dtype_of
from optimizer.search.worker import TrialWorker
from optimizer.stages.accuracy import judge_on
from optimizer.stages.job import Job
from optimizer.stages.texts import TextStage
from optimizer.stages.weights import WeightStage

#: how often a worker that waits asks whether the search goes on
_ASK_S = 0.5


def awaited_offer(ledger: Ledger, say: Callable[[str], None]) -> Offer:
    """The open offer of a search; it is waited for while a run prepares one. CannotJoin where none will come."""
    runs, study, said = RollCall(ledger, RUNS), ledger.study(RUNS), False
    while True:
        living, offer = runs.living(), Offer.read(study)
        if offer is not None and offer.is_open and offer.run in living:
            return offer
        if offer is not None and offer.run in living:
            raise CannotJoin(
                f"the search of {ledger.name!r} is finished, and its run is proving what was found; nothing is left to do"
            )
        if not living:
            state = "is finished" if offer is not None and not offer.is_open else "is not running"
            raise CannotJoin(
                f"a worker joins a search that runs, and that of {ledger.name!r} {state}; start optimize --workers"
            )
        if not said:
            said = True
            say(f"{next(iter(living.values()))} has not begun to search yet; waiting for it")
        time.sleep(_ASK_S)


class _Over:
    """Whether the search of `offer` has ended, or its run has been gone for long."""

    def __init__(self, ledger: Ledger, offer: Offer, say: Callable[[str], None]) -> None:
        self._study, self._offer, self._say, self._runs = ledger.study(RUNS), offer, say, RollCall(ledger, RUNS)
        self._asked_s, self._alone_s = -_ASK_S, 0.0

    def __call__(self) -> bool:
        now_s = time.monotonic()
        if now_s - self._asked_s < _ASK_S:
            return False
        self._asked_s = now_s
        offer = Offer.read(self._study)
        if offer is None or not offer.is_open or offer.study != self._offer.study:
            return True
        if self._runs.living():
            self._alone_s = 0.0
        elif not self._alone_s:
            self._alone_s = now_s
            self._say(f"the run of this search has gone; waiting at most {PATIENCE_S:.0f} s for the same command")
        return self._alone_s > 0 and now_s - self._alone_s > PATIENCE_S


@dataclass(frozen=True)
class WorkerStage:
    """Scores trials of the search of `offer` on `num_threads` threads."""

    job: Job
    offer: Offer
    num_threads: int
    here: Holder

    def run(self, stop: threading.Event) -> int:
        """How many were scored; ends with the search, or after the trial at which `stop` is set. CannotJoin as `offer` says."""
        job, offer, say = self.job, self.offer, self.job.reporter.say
        (judge, looks), gate = self._judge(), Gate(**job.spec.gate.model_dump())

        def score(choice: Assignment) -> TrialScore:
            return score_plan(judge.on(kv_dtype_of(choice)), offer.plan(choice), gate, looks)

        say(f"joining the search of {job.spec.name}: every probe has the bits of the search")
        over = _Over(job.ledger, offer, say)
        return TrialWorker(job.ledger, offer.study, score, self.here, say).work(over, stop)

    def _judge(self) -> tuple[Judge, Mapping[str, Look]]:
        """That of the search, as far as anything can tell, and the last look of the proof at each text."""
        job, offer = self.job, self.offer
        offer.check_request(job.sources, job.request)
        bench = job.target.workbench(job.original).with_threads(self.num_threads)
        bench = replace(bench, kv_block_size=offer.kv_block_size)
        offer.check_numbers({"numbers": bench.numbers})
        text_stage = TextStage(job, source_prompts(job.source), bench)
        texts = text_stage.run()
        store = WeightStage(job, text_stage.calibration).run()
        job = job.on(store.source)
        judge = judge_on(job, bench.on(store), texts.search, texts.own)
        offer.check_numbers(judge.depends_beside_plan(job.schemes))
        offer.check_probes(probe_each(judge, job.uniform_changes()))
        return judge, {name: text.looks[-1] for name, text in texts.proof.items()}
