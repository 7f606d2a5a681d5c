"""What a run has measured and tried, in Optuna's storage: a run that is killed, or repeated, measures nothing twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal, TypeVar, cast

import optuna
from optuna.trial import FrozenTrial, TrialState

from optimizer.records.patient_storage import PATIENCE_S, open_patient, silent

T = TypeVar("T")
Direction = Literal["minimize", "maximize"]


class Ledger:
    """Records (key -> JSON value) and studies of one run, all under names that begin with `name`.

    `name` comes from the digest of the inputs, so that another model, space or seed never meets these records. A storage that
    is locked, or gone for a while, is waited for at most `patience_s` seconds, and `say` is told: what was measured
    meanwhile is not lost. `known` are records of an earlier run; the storage's own count before them. Raises as
    `open_patient`, whenever the storage is used.
    """

    def __init__(
        self,
        storage_url: str,
        name: str,
        say: Callable[[str], None] = lambda _: None,
        patience_s: float = PATIENCE_S,
        known: Mapping[str, object] = MappingProxyType({}),
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.storage = open_patient(storage_url, say, patience_s)
        self.silent_storage = silent(self.storage)
        """The same for a thread of its own, which tells nobody that it waits."""
        self.name = name
        self.check_hold: Callable[[], None] = lambda: None
        """Called before a record is made; raises where this run may make none any more."""
        self._records_study = self.study("records")
        self.records: dict[str, object] = dict(self._records_study.user_attrs)
        """What the storage has."""
        self._known = known
        self.used: dict[str, object] = {}
        """What this run has asked for, found or made."""

    def study(self, stage: str, directions: Sequence[Direction] = ("minimize",)) -> optuna.Study:
        """The study of `stage`, made if it is new."""
        return optuna.create_study(
            storage=self.storage, study_name=f"{self.name}/{stage}", directions=list(directions), load_if_exists=True
        )

    def reread(self) -> None:
        """Take over what another run has recorded meanwhile."""
        self.records.update(self._records_study.user_attrs)

    def once(self, key: str, measure: Callable[[], T]) -> T:
        """The record under `key`; if there is none, `measure()`, recorded. Values must be JSON."""
        if key in self.records or key in self._known:
            value = self.records.get(key, self._known.get(key))
        else:
            self.check_hold()
            value = measure()
            self.check_hold()
            self.records[key] = value
            self._records_study.set_user_attr(key, value)
        self.used[key] = value
        return cast(T, value)


def names_in(storage_url: str, say: Callable[[str], None] = lambda _: None, patience_s: float = PATIENCE_S) -> list[str]:
    """Whose records the storage has. Raises as `open_patient`."""
    studies = open_patient(storage_url, say, patience_s).get_all_studies()
    return sorted({study.study_name.partition("/")[0] for study in studies})


def completed(study: optuna.Study) -> list[FrozenTrial]:
    """Finished trials in order. One that was running when its process was killed stays out: only it is lost."""
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
