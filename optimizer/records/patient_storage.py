"""An Optuna storage that waits for what passes: another process's lock, a full disk, a server that restarts."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, cast

import optuna
from optuna.exceptions import StorageInternalError
from sqlalchemy.engine import make_url
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    InterfaceError,
    OperationalError,
    PendingRollbackError,
    SQLAlchemyError,
)

from artifacts.errors import UserError

T = TypeVar("T")
#: how long a record waits for the storage before the run gives up
PATIENCE_S = 120.0
_LONGEST_PAUSE_S = 1.0
#: as long as SQLite waits for a lock before it fails
_SILENT_S = 5.0

#: SQLite's primary result code (https://sqlite.org/rescode.html) -> what to do about it
_FIXES = {
    sqlite3.SQLITE_BUSY: "end the process that holds it",
    sqlite3.SQLITE_LOCKED: "end the process that holds it",
    sqlite3.SQLITE_FULL: "make room on its disk",
    sqlite3.SQLITE_READONLY: "make the file and its folder writable",
    sqlite3.SQLITE_CANTOPEN: "make its folder there and writable",
    sqlite3.SQLITE_IOERR: "check its disk",
    sqlite3.SQLITE_CORRUPT: "the file is damaged, move it away",
    sqlite3.SQLITE_NOTADB: "the file is not an SQLite database",
}
#: what PostgreSQL says of a table, a type or a row that is there by now (https://www.postgresql.org/docs/current/errcodes-appendix.html)
_MADE_AT_ONCE = ("23505", "42P07", "42710")
_PASSING = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL)


class StorageUnavailable(UserError):
    """The storage cannot be read or written any more; the message is one line: the rule, what happened, what to do."""


def open_patient(url: str, say: Callable[[str], None], patience_s: float = PATIENCE_S) -> optuna.storages.BaseStorage:
    """The storage at `url`. What is asked of it is asked again, for `patience_s` seconds, while its fault may pass.

    `say` is told when waiting begins and when it has ended. Raises UserError for what Optuna cannot open; a server that does
    not answer when it is opened is not waited for. Whatever is asked later raises StorageUnavailable.
    """
    shown = _without_password(url)
    try:
        storage = _patiently(partial(optuna.storages.get_storage, url), shown, say, patience_s, _passes_when_opened)
    except Exception as error:  # each backend raises its own kind
        raise UserError(
            f"storage must be a URL that Optuna can open, such as sqlite:///study.db; got {shown!r}: {_reason(error)}"
            f"; {_fix(error)}"
        ) from error
    return cast(optuna.storages.BaseStorage, _Patient(storage, shown, say, patience_s))


def silent(storage: optuna.storages.BaseStorage) -> optuna.storages.BaseStorage:
    """What `open_patient` opened, for a thread that says nothing while it waits."""
    assert isinstance(storage, _Patient)
    return cast(optuna.storages.BaseStorage, storage.silent())


class _Patient:
    """Every method of a storage, asked patiently. Optuna takes whatever has a storage's methods."""

    def __init__(self, storage: optuna.storages.BaseStorage, shown: str, say: Callable[[str], None], patience_s: float) -> None:
        self._storage, self._shown, self._say, self._patience_s = storage, shown, say, patience_s

    def silent(self) -> _Patient:
        return _Patient(self._storage, self._shown, lambda _: None, self._patience_s)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._storage, name)

        def ask(*arguments: Any, **named: Any) -> Any:
            def asked() -> Any:
                try:
                    return method(*arguments, **named)
                except (SQLAlchemyError, StorageInternalError):
                    # A session whose connection was cut in a transaction is of no use any more: the next is a new one.
                    self._storage.remove_session()
                    raise

            try:
                return _patiently(asked, self._shown, self._say, self._patience_s, _is_passing)
            except (SQLAlchemyError, StorageInternalError) as error:
                raise StorageUnavailable(
                    f"the study's storage must stay readable and writable; {self._shown!r}: {_reason(error)}; {_fix(error)}; "
                    "run the same command to continue from what is recorded"
                ) from error

        return ask


def _patiently(
    action: Callable[[], T], shown: str, say: Callable[[str], None], patience_s: float, passes: Callable[[Exception], bool]
) -> T:
    """`action()`, tried again while its fault may pass. A transaction that failed was rolled back: nothing is written twice.

    Optuna tries some actions again by itself, for longer than a user should wonder: who waits for `_SILENT_S` says so, too.
    """
    began_s, waits = time.monotonic(), threading.Event()

    def say_waiting(reason: str) -> None:
        if not waits.is_set():
            waits.set()
            say(f"waiting for the study's storage {shown}, at most {patience_s:.0f} s: {reason}")

    def say_answered() -> None:
        if waits.is_set():
            say(f"the study's storage answers again after {time.monotonic() - began_s:.0f} s")

    watch = threading.Timer(_SILENT_S, say_waiting, [f"no answer for {_SILENT_S:.0f} s"])
    watch.daemon = True
    watch.start()
    try:
        return _until_it_passes(action, say_waiting, say_answered, began_s + patience_s, passes)
    finally:
        watch.cancel()


def _until_it_passes(
    action: Callable[[], T],
    say_waiting: Callable[[str], None],
    say_answered: Callable[[], None],
    end_s: float,
    passes: Callable[[Exception], bool],
) -> T:
    pause_s = 0.05
    while True:
        try:
            result = action()
        except Exception as error:
            if not passes(error):
                say_answered()  # an error is an answer, too: a study of that name is there already
                raise
            left_s = end_s - time.monotonic()
            if left_s <= 0:
                raise
            say_waiting(_reason(error))
            time.sleep(min(pause_s, left_s))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        else:
            say_answered()
            return result


def _is_passing(error: Exception) -> bool:
    """Whether the fault may pass by itself: a lock, a full disk, a server that is away."""
    return _is_passing_lock(error) or _is_of_a_server(error)


def _is_passing_lock(error: Exception) -> bool:
    return _sqlite_code(error) in _PASSING


def _passes_when_opened(error: Exception) -> bool:
    """Whether the fault is a lock, or that another process makes the tables of an empty database at this moment."""
    return _is_passing_lock(error) or getattr(_cause(error), "sqlstate", None) in _MADE_AT_ONCE


def _is_of_a_server(error: BaseException) -> bool:
    """Whether a server did not answer; what it answers to a wrong statement is another kind."""
    inner = _unwrapped(error)
    if isinstance(inner, PendingRollbackError):
        return True  # the connection was cut in the middle of a transaction
    if isinstance(_cause(error), sqlite3.Error) or not isinstance(inner, DBAPIError):
        return False
    return inner.connection_invalidated or isinstance(inner, OperationalError | InterfaceError)


def _fix(error: BaseException) -> str:
    if isinstance(error, ImportError):
        fix = "install its driver: the extra coldforge[postgresql] has PostgreSQL's"
    elif (code := _sqlite_code(error)) is not None:
        fix = _FIXES.get(code, "it may be another tool's database")
    else:
        fix = "check that its server runs and lets you in" if _is_of_a_server(error) else "check it"
    return f"{fix}, or name another storage"


def _unwrapped(error: BaseException) -> BaseException:
    """SQLAlchemy's error, where Optuna has wrapped it."""
    return error.__cause__ or error if isinstance(error, StorageInternalError) else error


def _cause(error: BaseException) -> BaseException:
    """What the database's driver raised, where SQLAlchemy has wrapped it."""
    inner = _unwrapped(error)
    return inner.orig if isinstance(inner, DBAPIError) and inner.orig is not None else inner


def _sqlite_code(error: BaseException) -> int | None:
    """SQLite's primary result code; None for another database."""
    cause = _cause(error)
    return getattr(cause, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF if isinstance(cause, sqlite3.Error) else None


def _reason(error: BaseException) -> str:
    return str(_cause(error)).strip().partition("\n")[0] or type(error).__name__


def _without_password(url: str) -> str:
    try:
        parsed = make_url(url)
    except ArgumentError:
        return url
    return url if parsed.password is None else parsed.render_as_string(hide_password=True)
