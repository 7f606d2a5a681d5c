"""The static records of kernels, for a person."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from kernels.compile.instructions import Kind, Mix
from kernels.compile.static_record import StaticRecord

_MOVERS: Mapping[Kind, str] = {"tma_load": "TMA", "async_copy": "async copy", "global_load": "loads"}
_BOUNDING: Mapping[Kind, str] = {
    "transcendental": "transcendental",
    "conversion": "conversion",
    "logic": "logic",
    "integer": "integer",
    "float": "float",
    "shared_load": "shared load",
    "barrier": "barrier",
    "spill": "spill",
}


def inspection_table(records: Mapping[str, StaticRecord]) -> Table:
    """A row per kernel, by name: resources, occupancy, and what one iteration of its hot loop executes (or all of it)."""
    table = Table("kernel", "arch")
    for header in ("warps", "registers", "spills", "shared", "code"):
        table.add_column(header, justify="right")
    table.add_column("resident")
    table.add_column("moves by")
    table.add_column("hot loop", justify="right")
    table.add_column("of which")
    for name, record in records.items():
        hot = record.hot_loop.mix if record.hot_loop else None
        table.add_row(
            name,
            record.arch,
            str(record.num_warps),
            f"{record.registers} ({record.accumulators} acc)" if record.accumulators else str(record.registers),
            f"[red]{record.spills}[/red]" if record.spills else "0",
            f"{record.shared_bytes:,}",
            f"{record.code_bytes:,}",
            _resident(record),
            _moves_by(hot or record.mix),
            str(hot.total) if hot else "none",
            _of_which(hot or record.mix),
        )
    return table


def _resident(record: StaticRecord) -> str:
    found = record.occupancy
    if not found.blocks:
        return f"[red]does not fit ({found.limit})[/red]"
    return f"{found.blocks} x {record.num_warps} of {found.max_warps} warps ({found.limit})"


def _moves_by(mix: Mix) -> str:
    return ", ".join(name for kind, name in _MOVERS.items() if mix.count(kind)) or "none"


def _of_which(mix: Mix) -> str:
    """The matrix instructions, then the kinds that most often bound a kernel."""
    tensor = [f"{count} {form}" for form, count in mix.forms("tensor").items()]
    others = [f"{count} {name}" for kind, name in _BOUNDING.items() if (count := mix.count(kind))]
    return ", ".join(tensor + others)
