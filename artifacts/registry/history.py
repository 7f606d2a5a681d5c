"""What happened to a registry's names: lines that are only ever appended. Pure but for `History`, which is the file."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError

from artifacts.manifest import Line, Sha256
from artifacts.registry.names import RegistryError

_FIRST = "0" * 64


Action = Literal["promote", "rollback", "retune"]


class Event(BaseModel):
    """One line. `digest` is the bundle that `name` means from then on, `replaces` the one it meant before.

    A `retune` moves nothing: it is a night that left the name where it was, with its result.json as evidence.
    `time` is UTC, as 2026-11-30T21:45:22Z. `evidence` is the sha256 of a file under evidence/. `previous` is the sha256 of the
    line before, so that no line can change or go unseen.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sequence: NonNegativeInt
    previous: Sha256
    time: Line
    action: Action
    name: Line
    digest: Sha256
    replaces: Sha256 | None
    why: Line
    evidence: Sha256 | None = None

    @property
    def moves(self) -> bool:
        """Whether the name meant another bundle before."""
        return self.action != "retune"

    def line(self) -> bytes:
        """The event as one line of history.jsonl."""
        return json.dumps(self.model_dump(), sort_keys=True, separators=(",", ":")).encode("ascii") + b"\n"


def values(events: Iterable[Event]) -> dict[str, str]:
    """The digest that each name means now, by name."""
    return {event.name: event.digest for event in events}


def past(events: Iterable[Event], name: str) -> list[str]:
    """The digests that `name` can be rolled back to, the latest last, and at the end the one it means now.

    A rollback takes away what it went back from: going back twice goes two promotions back.
    """
    stack: list[str] = []
    for event in events:
        if event.name != name:
            continue
        if event.action == "rollback":
            del stack[stack.index(event.digest) :]
        elif event.digest in stack:
            stack.remove(event.digest)
        stack.append(event.digest)
    return stack


class History:
    """The file of events. Only `append` writes, and its caller holds the registry's lock."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> tuple[Event, ...]:
        """All events, in order. RegistryError if a line is malformed or the chain is broken.

        What follows the last line break is the beginning of an event whose writer was killed: it never happened.
        """
        events: list[Event] = []
        previous = _FIRST
        for line in self._lines():
            event = self._parsed(line, len(events))
            if event.sequence != len(events) or event.previous != previous:
                raise self._broken(len(events), f"its place and its hash of the line before must be {len(events)}, {previous}")
            events.append(event)
            previous = hashlib.sha256(line).hexdigest()
        return tuple(events)

    def append(self, before: Sequence[Event], event: Event) -> None:
        """Put `event` after `before`, which is all that is there; on disk when this returns."""
        num_bytes = sum(len(known.line()) for known in before)
        with self.path.open("r+b") as file:
            file.truncate(num_bytes)  # what a killed writer left of its line
            file.seek(num_bytes)
            file.write(event.line())
            file.flush()
            os.fsync(file.fileno())

    def next_place(self, before: Sequence[Event]) -> tuple[int, str]:
        """`sequence` and `previous` of the event that comes after `before`."""
        return len(before), hashlib.sha256(before[-1].line()).hexdigest() if before else _FIRST

    def _lines(self) -> list[bytes]:
        return [line + b"\n" for line in self.path.read_bytes().split(b"\n")[:-1]]

    def _parsed(self, line: bytes, index: int) -> Event:
        try:
            event = Event.model_validate_json(line, strict=True)
        except ValidationError as error:
            raise self._broken(index, f"it must be an event: {error.errors()[0]['msg']}") from error
        if event.line() != line:
            raise self._broken(index, "it must be canonical JSON")
        return event

    def _broken(self, index: int, rule: str) -> RegistryError:
        return RegistryError(
            f"{self.path}: line {index + 1} was not written by this program: {rule}; "
            "restore the file from a copy, or keep the lines before that one"
        )
