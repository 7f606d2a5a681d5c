"""Histories for a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from optimizer.history.history import History
from optimizer.history.series import Move, changed_between
from optimizer.nights.night import Night

_SHOWN = 12


def show(history: History, console: Console | None = None) -> None:
    """Print every night, then each move."""
    console = console or Console()
    console.print(Text(f"{history.model}, {len(history.nights)} nights", style="bold"))
    table = Table("night (UTC)", *history.phases, "verdict", "bundle", "what changed", box=None, pad_edge=False)
    moved = {(move.after.time, move.series.phase) for move in history.moves}
    for night, notes in history.notes():
        figures = [_figure(night, phase, (night.time, phase) in moved) for phase in history.phases]
        table.add_row(
            night.time, *figures, Text(night.verdict), Text(night.measured[:_SHOWN]), Text("\n".join(notes), style="dim")
        )
    console.print(table)
    if history.phases:
        console.print(Text("Speed over the frozen reference bundle; * is the first night at another level.", style="dim"))
    for move in history.moves:
        console.print(Text(said(move)))
    if history.series and not history.moves:
        console.print("No series moved.")


def said(move: Move) -> str:
    """A move in one sentence."""
    point = move.change_point
    level = f"{point.before:.3f} x to {point.after:.3f} x the reference ({100 * point.change:+.1f} %, p = {point.p_value:.1g})"
    causes = [*changed_between(move.before, move.after)]
    if move.bundles is not None:
        before, after = (digest[:_SHOWN] for digest in move.bundles)
        causes.insert(0, f"bundle {before} -> {after}")
    told = "; ".join(causes) or "the bundle and all fingerprints are the same"
    return f"{move.series.phase} moved on {move.after.time} from {level}: {told}"


def _figure(night: Night, phase: str, has_moved: bool) -> Text:
    ratio = night.against_reference.get(phase)
    if ratio is None:
        return Text("")
    return Text(f"{ratio.value:.3f}{'*' if has_moved else ''}", style="bold" if has_moved else "")
