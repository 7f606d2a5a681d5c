"""A difference for a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from optimizer.difference.compare import Difference


def show(difference: Difference, console: Console | None = None) -> None:
    """Print each section that has something to say."""
    console = console or Console()
    for side, facts in (("A", difference.left), ("B", difference.right)):
        console.print(Text(f"{side}  {facts.label}  {facts.manifest.name}, digest {facts.manifest.digest[:12]}"))
    if difference.is_none:
        console.print("They are the same bundle, byte for byte.")
        return
    for section in difference.sections:
        if not section.rows:
            continue
        same = f", {section.num_same} more are the same" if section.num_same else ""
        console.print(Text(f"\n{section.title}{same}", style="bold"))
        has_changes = any(row.change for row in section.rows)
        table = Table("", "A", "B", *([""] if has_changes else []), box=None, pad_edge=False)
        for row in section.rows:
            style = "" if row.left != row.right else "dim"
            cells = (row.subject, row.left, row.right, *([row.change] if has_changes else []))
            table.add_row(*(Text(cell, style=style) for cell in cells))
        console.print(table)
        if section.note:
            console.print(Text(section.note, style="dim"))
