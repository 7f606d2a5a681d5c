"""Which process has something that only one may have, as others are told."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path


@dataclass(frozen=True)
class Holder:
    """A process. `place` is what it holds on its machine by a lock: another process that is there finds this one dead."""

    pid: int
    host: str
    since: str
    place: str = ""

    @classmethod
    def here(cls, folder: Path | None = None) -> Holder:
        """This process, from now on, and the folder that it holds a lock on, if any."""
        place = "" if folder is None else f"{_boot_id()} {folder.absolute()}"
        return cls(os.getpid(), platform.node(), datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), place)

    def is_in_place_of(self, other: Holder | None) -> bool:
        """Whether `other`, another process, must have ended because this one has its place."""
        return other is not None and self.place != "" and (self.host, self.place) == (other.host, other.place)

    @classmethod
    def read(cls, content: object) -> Holder | None:
        """What `plain` wrote; None for anything else."""
        try:
            return cls(**content) if isinstance(content, dict) else None
        except TypeError:
            return None

    def plain(self) -> dict[str, object]:
        """As JSON has it."""
        return asdict(self)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since},"


def _boot_id() -> str:
    """Of the machine since it was started, where it says so: two machines may have one name."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
