"""What a run found, as tables: every engine's medians, and each of ours against the best peer of its width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table as RichTable

from benchmarks.peers.record import Entry, Record
from benchmarks.peers.statistics import Ratio, median, ratio_of_medians
from benchmarks.peers.works import Work

_MIB = 1 << 20
NOT_MEASURED = "-"


@dataclass(frozen=True)
class Comparison:
    """One of ours against the fastest peer of the same width whose KL is equal or worse.

    `is_fair` is False where no such peer had a turn: then `peer` is the fastest of the width, though its KL is better
    or unknown.
    """

    work: Work
    ours: Entry
    peer: Entry
    ratio: Ratio
    is_fair: bool


@dataclass(frozen=True)
class Grid:
    """A table as text."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def rich(self) -> RichTable:
        table = RichTable(title=self.title)
        for index, column in enumerate(self.columns):
            table.add_column(column, justify="right" if index else "left")
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        lines = [self.columns, ("---", *["---:"] * (len(self.columns) - 1)), *self.rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def compare(record: Record) -> list[Comparison]:
    """Work by work, each of ours that has a peer of its width with a round in common."""
    found = []
    for work in record.works:
        for ours in (entry for entry in record.entries.values() if entry.is_ours):
            peers = [
                entry
                for entry in record.entries.values()
                if not entry.is_ours
                and entry.bits == ours.bits
                and record.samples(work.name, entry.name).keys() & record.samples(work.name, ours.name).keys()
            ]
            fair = [peer for peer in peers if _is_no_better(peer, ours)]
            if best := _fastest(record, work, fair or peers):
                ratio = ratio_of_medians(
                    record.samples(work.name, ours.name), record.samples(work.name, best.name), is_rate=work.is_rate
                )
                found.append(Comparison(work, ours, best, ratio, bool(fair)))
    return found


def medians_grid(record: Record) -> Grid:
    """A row for every entry: KL, median of each work, resident memory."""
    columns = ("engine", "bits", "KL, nats/token", *(f"{work.title}, {work.unit}" for work in record.works), "resident, MiB")
    rows = []
    for entry in sorted(record.entries.values(), key=lambda entry: (entry.bits, not entry.is_ours, entry.name)):
        values = [_median(record, work, entry) for work in record.works]
        kl = NOT_MEASURED if entry.kl_value is None else f"{entry.kl_value:.3g}"
        rows.append((entry.name, str(entry.bits), kl, *values, _resident(entry)))
    return Grid("medians", columns, tuple(rows))


def comparisons_grid(comparisons: Sequence[Comparison]) -> Grid:
    """A row for every comparison; a star marks a peer whose KL is better than ours, or unknown."""
    rows = [
        (
            c.work.title,
            c.ours.name,
            c.peer.name + ("" if c.is_fair else " *"),
            f"{c.ratio.value:.2f} x",
            _spread(c.ratio, c.ratio.low, c.ratio.high),
            _spread(c.ratio, c.ratio.worst, c.ratio.best),
            str(c.ratio.num_rounds),
        )
        for c in comparisons
    ]
    columns = ("work", "ours", "best peer of equal or worse KL", "ratio of medians", "95 %", "of single rounds", "rounds")
    return Grid("ours against the best peer of the same width (* its KL is better, or unknown)", columns, tuple(rows))


def _spread(ratio: Ratio, low: float, high: float) -> str:
    return f"{low:.2f} to {high:.2f}" if ratio.num_rounds > 1 else NOT_MEASURED


def _is_no_better(peer: Entry, ours: Entry) -> bool:
    return peer.kl_value is not None and ours.kl_value is not None and peer.kl_value >= ours.kl_value


def _fastest(record: Record, work: Work, entries: Sequence[Entry]) -> Entry | None:
    if not entries:
        return None
    sign = 1 if work.is_rate else -1
    return max(entries, key=lambda entry: sign * median(record.samples(work.name, entry.name)))


def _median(record: Record, work: Work, entry: Entry) -> str:
    samples = record.samples(work.name, entry.name)
    if not samples:
        return NOT_MEASURED
    value = median(samples)
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _resident(entry: Entry) -> str:
    """After all work; for ours also as a multiple of weights and KV cache."""
    if "after_work" not in entry.memory:
        return NOT_MEASURED
    resident = entry.memory["after_work"]["resident"]
    needed = entry.artifact_bytes + int(entry.facts.get("kv_bytes", 0))
    return f"{resident / _MIB:.0f}" + (f" ({resident / needed:.2f} x weights + KV)" if entry.is_ours else "")
