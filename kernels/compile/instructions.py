"""Machine instructions as counts: what a stretch of code executes, by form and kind, the same for every GPU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

Kind: TypeAlias = Literal[
    "tensor",  # matrix units: HMMA, HGMMA, tcgen05, mfma
    "global_load",
    "async_copy",  # global to shared memory past the registers: cp.async, loads to LDS
    "tma_load",
    "tma_store",
    "global_store",
    "atomic",
    "shared_load",
    "shared_store",
    "tensor_memory",  # tcgen05's own memory, to and from registers
    "spill",  # local (NVIDIA) or scratch (AMD) memory
    "constant",  # kernel parameters and constants
    "transcendental",
    "conversion",
    "logic",  # bitwise, shifts, byte permutes, selects
    "integer",
    "float",
    "shuffle",  # between the lanes of a warp
    "move",
    "uniform",  # NVIDIA's uniform and AMD's scalar unit
    "barrier",
    "control",
    "other",
]


class UnreadableCode(Exception):
    """A disassembly that does not read as one."""


@dataclass(frozen=True)
class Instruction:
    """One instruction where it stands. It may go on to any address of `targets`, and to the next one if it `continues`."""

    address: int
    form: str
    """The opcode, with those modifiers that decide what it costs: `LDG.128`, `HGMMA.64x128x16.F32.BF16`, `MUFU.EX2`."""
    kind: Kind
    lane_bytes: int = 0
    """Bytes that each lane moves, for loads and stores."""
    targets: tuple[int, ...] = ()
    continues: bool = True


@dataclass(frozen=True)
class Row:
    """`count` instructions of one form."""

    form: str
    kind: Kind
    lane_bytes: int
    count: int


@dataclass(frozen=True)
class Mix:
    """What a stretch of code executes when every instruction in it runs once; the commonest form first."""

    rows: tuple[Row, ...]

    @classmethod
    def of(cls, code: Iterable[Instruction]) -> Mix:
        counts = Counter((instruction.form, instruction.kind, instruction.lane_bytes) for instruction in code)
        ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        return cls(tuple(Row(*key, count) for key, count in ordered))

    @property
    def total(self) -> int:
        return sum(row.count for row in self.rows)

    def count(self, *kinds: Kind) -> int:
        """Instructions of these kinds."""
        return sum(row.count for row in self.rows if row.kind in kinds)

    def lane_bytes(self, *kinds: Kind) -> int:
        """Bytes that one lane moves by instructions of these kinds."""
        return sum(row.count * row.lane_bytes for row in self.rows if row.kind in kinds)

    def forms(self, kind: Kind) -> dict[str, int]:
        """Form -> count, of one kind."""
        return {row.form: row.count for row in self.rows if row.kind == kind}

    def opcode(self, *opcodes: str) -> int:
        """Instructions whose opcode, the form up to its first dot, is one of these."""
        return sum(row.count for row in self.rows if row.form.split(".")[0] in opcodes)

    def to_json(self) -> list[list[str | int]]:
        return [[row.form, row.kind, row.lane_bytes, row.count] for row in self.rows]

    @classmethod
    def from_json(cls, rows: list[list[str | int]]) -> Mix:
        """The inverse of `to_json`; UnreadableCode if a row is not one."""
        return cls(tuple(_row(*row) for row in rows))


def _row(form: object = None, kind: object = None, lane_bytes: object = None, count: object = None) -> Row:
    for known in get_args(Kind):
        if known == kind and isinstance(form, str) and isinstance(lane_bytes, int) and isinstance(count, int):
            return Row(form, known, lane_bytes, count)
    raise UnreadableCode(
        f"an instruction count is [form, kind, lane_bytes, count]; got {[form, kind, lane_bytes, count]}; take the record again"
    )
