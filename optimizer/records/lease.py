"""Who takes part in a search: each process renews a lease in the storage, and who is silent for long is out.

Not Optuna's heartbeats: these fail no trial whose process died before its first beat, and after an outage they fail trials of
processes that live (decision 0055). No two machines' clocks are compared: an observer counts, by its own, how long a lease has
stayed as it is.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState, create_trial

from artifacts.errors import UserError
from optimizer.records.holder import Holder
from optimizer.records.ledger import Ledger

#: how often a lease is renewed
BEAT_S = 2.0
#: how long one may stay as it is
LEASE_S = 15.0
_BEAT, _HOLDER = "beat", "holder"


class Lease:
    """One process's place in the study of `stage`: a running trial, which a thread renews until `release`."""

    def __init__(self, ledger: Ledger, stage: str, holder: Holder) -> None:
        self._storage = ledger.silent_storage
        study = ledger.study(stage)
        study_id = self._storage.get_study_id_from_name(study.study_name)
        template = create_trial(state=TrialState.RUNNING, user_attrs={_BEAT: 0, _HOLDER: holder.plain()})
        self._trial_id = self._storage.create_new_trial(study_id, template)
        self.number: int = self._storage.get_trial_number_from_id(self._trial_id)
        self._ended = threading.Event()
        self._lost = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    @property
    def is_lost(self) -> bool:
        """Whether another process found it silent, or the storage stayed away."""
        return self._lost.is_set()

    def release(self) -> None:
        """Give it back, so that nobody waits for it."""
        self._ended.set()
        self._thread.join()
        end(self._storage, self._trial_id)

    def _renew(self) -> None:
        beat = 0
        while not self._ended.wait(BEAT_S):
            beat += 1
            try:
                self._storage.set_trial_user_attr(self._trial_id, _BEAT, beat)
            except (UpdateFinishedTrialError, UserError):
                self._lost.set()
                return


@dataclass
class _Seen:
    beat: object
    silent_s: float = 0.0
    is_renewed: bool = False


class RollCall:
    """Which leases of a study live, as this process sees them."""

    def __init__(self, ledger: Ledger, stage: str) -> None:
        self._ledger, self._stage = ledger, stage
        self._study: optuna.Study | None = None
        self._seen: dict[int, _Seen] = {}
        self._looked_s = time.monotonic()

    def living(self) -> Mapping[int, Holder | None]:
        """Number of each lease that is held -> its holder, the oldest first. One that was silent for LEASE_S is ended."""
        if self._study is None:
            self._study = self._ledger.study(self._stage)
        running = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        now_s = time.monotonic()
        # Who did not look, as while the storage was away, does not know who was silent: of a long gap little counts.
        step_s = min(now_s - self._looked_s, 2 * BEAT_S)
        self._looked_s = now_s
        living: dict[int, Holder | None] = {}
        for trial in running:
            beat = trial.user_attrs.get(_BEAT)
            seen = self._seen.get(trial.number)
            if seen is None:
                self._seen[trial.number] = seen = _Seen(beat)
            elif beat != seen.beat:
                self._seen[trial.number] = seen = _Seen(beat, is_renewed=True)
            else:
                seen.silent_s += step_s
            if seen.silent_s > LEASE_S:
                self.end(trial.number)
            else:
                living[trial.number] = Holder.read(trial.user_attrs.get(_HOLDER))
        return living

    def is_renewed(self, number: int) -> bool:
        """Whether the lease was renewed while this process looked, so that somebody lives who holds it."""
        return number in self._seen and self._seen[number].is_renewed

    def end(self, number: int) -> None:
        """Take the lease away."""
        assert self._study is not None
        storage = self._ledger.storage
        study_id = storage.get_study_id_from_name(self._study.study_name)
        end(storage, storage.get_trial_id_from_study_id_trial_number(study_id, number))


def end(storage: optuna.storages.BaseStorage, trial_id: int) -> bool:
    """Fail a trial that is not finished; whether it was not."""
    try:
        return storage.set_trial_state_values(trial_id, TrialState.FAIL)
    except UpdateFinishedTrialError:
        return False
