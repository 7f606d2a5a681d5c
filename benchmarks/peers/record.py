"""The result file: every turn as it was taken, written again after each, so that a killed run loses one turn."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.peers.statistics import Samples
from benchmarks.peers.works import Work

_FOLDERS = re.compile(r"(?<![\w.~-])/(?:[^/\s]+/)*")


def without_folders(text: str) -> str:
    """`text` with absolute paths cut to their last part: a result does not show where a machine keeps its files."""
    return _FOLDERS.sub("", text)


@dataclass
class Entry:
    """One engine with one kind of weights. `facts` is what its adapter said: versions, flags; bytes are of this machine."""

    name: str
    engine: str
    bits: int
    artifact_bytes: int = 0
    facts: dict[str, Any] = field(default_factory=dict)
    kl: dict[str, Any] | None = None
    """optimizer.evaluation.Evaluation's record, against the float model."""
    memory: dict[str, dict[str, int]] = field(default_factory=dict)
    """`after_load` and `after_work`, each by kind."""
    errors: list[str] = field(default_factory=list)

    @property
    def is_ours(self) -> bool:
        return self.engine == "ours"

    @property
    def kl_value(self) -> float | None:
        return None if self.kl is None else float(self.kl["kl"]["value"])


@dataclass(frozen=True)
class Turn:
    """One measurement. Round -1 is the warm-up, which no statistic counts. `load_average` is of the minute before it."""

    work: str
    entry: str
    round_index: int
    value: float
    load_average: float
    at: str


@dataclass
class Record:
    """A run. `setting` is what holds for all of it: command, date, processor, threads, model, text."""

    setting: dict[str, Any]
    works: tuple[Work, ...]
    entries: dict[str, Entry] = field(default_factory=dict)
    turns: list[Turn] = field(default_factory=list)

    def samples(self, work: str, entry: str) -> Samples:
        """Round -> value, without the warm-up."""
        return {t.round_index: t.value for t in self.turns if (t.work, t.entry) == (work, entry) and t.round_index >= 0}

    def resumed(self, setting: dict[str, Any]) -> Record:
        """This record, to go on with under `setting`. ValueError where more than command and date has changed."""
        for key in sorted(setting.keys() - {"command", "date"}):
            before = self.setting.get(key)
            if before != setting[key]:
                raise ValueError(f"a run goes on with what it began with, but {key} was {before} and is {setting[key]}")
        self.setting["resumed"] = [*self.setting.get("resumed", []), {key: setting[key] for key in ("command", "date")}]
        return self

    def entry(self, name: str, engine: str, bits: int) -> Entry:
        """The entry of that name, a new one if there is none."""
        return self.entries.setdefault(name, Entry(name, engine, bits))

    def has_turn(self, work: str, entry: str, round_index: int) -> bool:
        """Whether that turn counts already; a warm-up never does, it is for the process that takes it."""
        return round_index in self.samples(work, entry)

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        partial.replace(path)

    @classmethod
    def read(cls, path: Path) -> Record:
        content = json.loads(path.read_text(encoding="utf-8"))
        return cls(
            setting=content["setting"],
            works=tuple(Work(**work) for work in content["works"]),
            entries={name: Entry(**entry) for name, entry in content["entries"].items()},
            turns=[Turn(**turn) for turn in content["turns"]],
        )
