"""What a worker does: it scores the trials that it is given, and answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from optimizer.records.holder import Holder
from optimizer.records.lease import Lease
from optimizer.records.ledger import Ledger
from optimizer.search.errand import Errands
from optimizer.search.precision import TrialScore
from optimizer.search.shared import POLL_S, WORKERS
from optimizer.search.warm_start import Assignment


class TrialWorker:
    """Works for the search whose trials are kept under `study`; `score` is of a choice.

    A worker that others found silent, as one that was stopped for a while, loses its trial and takes another place.
    """

    def __init__(
        self, ledger: Ledger, study: str, score: Callable[[Assignment], TrialScore], here: Holder, say: Callable[[str], None]
    ) -> None:
        self._ledger, self._score, self._here, self._say = ledger, score, here, say
        self._errands = Errands(ledger, study)

    def work(self, is_over: Callable[[], bool], stop: threading.Event) -> int:
        """Goes on until `is_over`, which is asked where nothing is to do, or `stop`; how many trials were scored here."""
        num_scored, lease = 0, Lease(self._ledger, WORKERS, self._here)
        try:
            while not stop.is_set():
                if lease.is_lost:
                    self._say("this worker was silent for too long and has lost its place; it takes another")
                    lease = Lease(self._ledger, WORKERS, self._here)
                errand = self._errands.take(lease.number)
                if errand is not None:
                    num_scored += self._errands.answer(errand, self._score(errand.choice))
                elif is_over():
                    break
                else:
                    time.sleep(POLL_S)
            return num_scored
        finally:
            lease.release()
