"""A trial on its way: which worker has it, which plan it is, and what is answered. In the storage, a trial of its own."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState, create_trial

from optimizer.records.lease import end
from optimizer.records.ledger import Ledger
from optimizer.search.precision import TrialScore
from optimizer.search.warm_start import Assignment

_ERRAND, _SCORE = "errand", "score"


@dataclass(frozen=True)
class Errand:
    """`worker` is the number of a lease; `number` the errand's own, -1 before it is given."""

    worker: int
    choice: Assignment
    latency_ms: float
    number: int = -1


class Errands:
    """Those of the search whose trials are kept under `study`: waiting, running, answered (complete) or failed.

    One attribute for each direction: a trial with a parameter for each band takes a database fifty statements.
    """

    def __init__(self, ledger: Ledger, study: str) -> None:
        self._storage = ledger.storage
        self._study = ledger.study(f"{study}/errands")
        self._study_id = self._storage.get_study_id_from_name(self._study.study_name)
        self._had: set[int] = set()

    def give(self, errand: Errand) -> None:
        """From now on it is `worker`'s."""
        content = asdict(errand)
        del content["number"]
        template = create_trial(state=TrialState.WAITING, user_attrs={_ERRAND: content})
        self._storage.create_new_trial(self._study_id, template)

    def look(self) -> tuple[list[Errand], list[tuple[Errand, TrialScore]]]:
        """Those that are not answered yet, and what was answered since the last look, at one moment."""
        unfinished, answers = [], []
        for trial in self._trials(TrialState.WAITING, TrialState.RUNNING, TrialState.COMPLETE):
            if trial.state != TrialState.COMPLETE:
                unfinished.append(_read(trial))
            elif trial.number not in self._had:
                self._had.add(trial.number)
                answers.append((_read(trial), TrialScore(**trial.user_attrs[_SCORE])))
        return unfinished, answers

    def withdraw(self) -> None:
        """Takes back what nobody has begun."""
        for trial in self._trials(TrialState.WAITING):
            end(self._storage, self._id(trial.number))

    def fail(self, errand: Errand) -> None:
        """Of a worker that is gone."""
        end(self._storage, self._id(errand.number))

    def take(self, worker: int) -> Errand | None:
        """What `worker` is to do, from now on its own; None where it has nothing to do."""
        for trial in self._trials(TrialState.WAITING):
            errand = _read(trial)
            if errand.worker == worker:
                try:
                    self._storage.set_trial_state_values(self._id(errand.number), TrialState.RUNNING)
                except UpdateFinishedTrialError:
                    return None  # it was taken back
                return errand
        return None

    def answer(self, errand: Errand, score: TrialScore) -> bool:
        """Whether the answer counts: it does not where the worker was taken for dead meanwhile."""
        trial_id = self._id(errand.number)
        try:
            self._storage.set_trial_user_attr(trial_id, _SCORE, asdict(score))
            return bool(self._storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [score.kl]))
        except UpdateFinishedTrialError:
            # Complete it can be by this worker alone, whom a storage that went away could not tell.
            return bool(self._storage.get_trial(trial_id).state == TrialState.COMPLETE)

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=states)

    def _id(self, number: int) -> int:
        return int(self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number))


def _read(trial: FrozenTrial) -> Errand:
    content: dict[str, Any] = trial.user_attrs[_ERRAND]
    return Errand(**content, number=trial.number)
