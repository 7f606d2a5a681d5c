"""The hold on a storage: of all runs of one name, on whatever machines, one at a time measures."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from artifacts.errors import UserError
from optimizer.records.holder import Holder
from optimizer.records.lease import LEASE_S, Lease, RollCall
from optimizer.records.ledger import Ledger

#: the study whose oldest running trial is the run that holds the storage
RUNS = "runs"


class StorageHeld(UserError):
    """Another run of this name uses the storage, or took it over."""


@contextmanager
def hold(ledger: Ledger, here: Holder, say: Callable[[str], None]) -> Iterator[Lease]:
    """The storage's records of this name, for this process alone to add to: so times of two machines never mix.

    StorageHeld, which says who has it, if another does. One that was killed is waited for as long as its lease lasts; one that
    was killed in the place of this process is known to be gone. A run whose lease was lost makes no record any more.
    """
    roll, lease = RollCall(ledger, RUNS), Lease(ledger, RUNS, here)

    def check() -> None:
        if lease.is_lost:
            raise StorageHeld(
                f"a run must renew its hold on the storage every few seconds, and this one was silent for {LEASE_S:.0f} s, "
                "as a process that is stopped; run the same command to continue from what is recorded"
            )

    try:
        said = False
        while older := {number: holder for number, holder in roll.living().items() if number < lease.number}:
            for number, holder in older.items():
                if here.is_in_place_of(holder):
                    roll.end(number)
                elif roll.is_renewed(number):
                    raise StorageHeld(
                        f"the records of {ledger.name!r} in this storage are for one run at a time, and "
                        f"{holder or 'another run'} adds to them; join its search with coldforge worker, wait for it to end, "
                        "or give the model another name"
                    )
                elif not said:
                    said = True
                    say(f"{holder or 'another run'} may have ended without a word; it is waited for, at most {LEASE_S:.0f} s")
            time.sleep(0.2)
        ledger.check_hold = check
        ledger.reread()
        yield lease
    finally:
        lease.release()
