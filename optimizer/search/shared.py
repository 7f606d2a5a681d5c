"""The precision search where workers score the trials: here plans are chosen, there they are scored."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from artifacts.errors import UserError
from optimizer.records.holder import Holder
from optimizer.records.lease import RollCall
from optimizer.records.ledger import Ledger
from optimizer.search.errand import Errand, Errands
from optimizer.search.precision import PrecisionSearch, Trial, TrialScore
from optimizer.search.warm_start import Assignment

#: the study whose running trials are the workers
WORKERS = "workers"
#: the number of no lease
NOBODY = -1
#: how often who waits for another process looks
POLL_S = 0.02
#: how often the workers are counted
ROLL_S = 0.5


class Crew:
    """The workers that live. `place` is this run's: workers that an earlier run left there are gone.

    `is_coming` says whether a worker may still come by itself.
    """

    def __init__(self, ledger: Ledger, here: Holder, say: Callable[[str], None], is_coming: Callable[[], bool]) -> None:
        self._roll, self._say, self._is_coming = RollCall(ledger, WORKERS), say, is_coming
        for number, holder in self._roll.living().items():
            if here.is_in_place_of(holder):
                self._roll.end(number)
        self._known: dict[int, Holder | None] = {}
        self._called_s = -ROLL_S

    def living(self) -> set[int]:
        """The numbers of their leases, which are read again after ROLL_S. UserError where there is none and none will come."""
        if self._known and time.monotonic() - self._called_s < ROLL_S:
            return set(self._known)
        self._called_s = time.monotonic()
        living = dict(self._roll.living())
        for number in living.keys() - self._known.keys():
            self._say(f"worker {number} is here: {living[number]} has joined")
        for number in self._known.keys() - living.keys():
            self._say(f"worker {number} is gone: a trial that it had is given to another")
        self._known = living
        if not living and not self._is_coming():
            raise UserError(
                "a shared search needs a worker, and every one has ended; run the same command to continue from what is "
                "recorded"
            )
        return set(living)


class SharedSearch(PrecisionSearch):
    """Each worker that lives is given a trial to score; one that has answered is given the next.

    What is given and answered is in a study beside the trials', whose only writer stays this process: an answer becomes a
    trial, numbered by when it came. With one worker the trials are those of `PrecisionSearch`. With several, what is chosen
    depends on what was answered by then: which plans are tried, not the score of any, differs from run to run.
    """

    def __init__(self, crew: Crew, refused: Callable[..., TrialScore | None], *problem: Any, **named: Any) -> None:
        """`problem` as `PrecisionSearch`; `refused` takes a plan as `score` does, and says of which none is asked for."""
        super().__init__(*problem, **named)
        self._crew, self._refused = crew, refused
        self._errands = Errands(self._ledger, self._study_key)

    def _steps(
        self, warm_starts: Sequence[Assignment], num_trials: int, timeout_s: float | None, interrupted: threading.Event
    ) -> Iterator[None]:
        begin, done = time.monotonic(), self.trials()
        unrecorded: list[Trial] = []
        ahead: Assignment | None = None
        known = [trial.choice for trial in done]
        self._errands.withdraw()

        def finish(errand: Errand, score: TrialScore) -> None:
            known.append(errand.choice)
            done.append(Trial(len(done), errand.choice, errand.latency_ms, **asdict(score)))
            unrecorded.append(done[-1])

        while True:
            living = self._crew.living()
            unfinished, answers = self._errands.look()
            for errand, score in answers:
                if errand.choice not in known:  # an earlier run may have recorded it already
                    finish(errand, score)
            if interrupted.is_set() or (timeout_s is not None and time.monotonic() - begin >= timeout_s):
                num_trials = len(done)
                self._errands.withdraw()
            given = {errand.worker: errand.choice for errand in unfinished if errand.worker in living}
            for errand in unfinished:
                if errand.worker not in living:
                    self._errands.fail(errand)
            free = min(living - given.keys(), default=None)
            is_more_wanted = len(given) < num_trials - len(done)
            if is_more_wanted and ahead is None and (free is not None or (len(living) > 1 and not unrecorded)):
                # With several workers the next plan is chosen while all of them are busy.
                ahead = self._next(warm_starts, done, list(given.values()))
                if ahead is not None and (refusal := self._refused(*self._chosen(ahead))) is not None:
                    finish(self._errand(NOBODY, ahead), refusal)
                    ahead = None
                    continue
            if free is not None and is_more_wanted and ahead is not None:
                self._errands.give(self._errand(free, ahead))
                ahead = None
            elif unrecorded:  # nobody waits while this is written
                self._record(unrecorded.pop(0))
                yield
            elif not given and (free is not None or not is_more_wanted):
                return
            else:
                time.sleep(POLL_S)

    def _errand(self, worker: int, choice: Assignment) -> Errand:
        return Errand(worker, choice, self._latency_ms(*self._chosen(choice)))
