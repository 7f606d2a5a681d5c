"""The table of static records, as a person reads it."""

from __future__ import annotations

from io import StringIO

from rich.console import Console

from kernels.compile.instructions import Mix, Row
from kernels.compile.static_record import Loop, StaticRecord
from optimizer.cli.kernel_table import inspection_table


def printed(**records: StaticRecord) -> str:
    screen = StringIO()
    Console(width=240, file=screen).print(inspection_table(records))
    return screen.getvalue()


def record(*rows: Row, registers: int = 112, shared_bytes: int = 73728, loops: tuple[Loop, ...] = ()) -> StaticRecord:
    return StaticRecord("sm_90", 4, shared_bytes, registers, 0, 0, 0, 8432, Mix(rows), loops)


MMA = Row("HGMMA.64x128x16.F32.BF16", "tensor", 0, 4)
COPY = Row("LDGSTS.128", "async_copy", 16, 12)
EXP = Row("MUFU.EX2", "transcendental", 0, 8)
SPILL = Row("STL.32", "spill", 4, 6)


def test_a_kernel_is_a_row_of_its_resources_and_its_hot_loop() -> None:
    text = printed(matmul=record(MMA, COPY, loops=(Loop("0x40", 1, Mix((MMA, COPY))),)))
    (row,) = [line for line in text.splitlines() if "matmul" in line]
    for part in (
        "sm_90",
        "112",
        "73,728",
        "8,432",
        "3 x 4 of 64 warps (shared memory)",
        "async copy",
        "16",
        "4 HGMMA.64x128x16.F32.BF16",
    ):
        assert part in row


def test_without_a_loop_the_whole_kernel_is_described() -> None:
    assert "none" in printed(exponential=record(EXP)) and "8 transcendental" in printed(exponential=record(EXP))


def test_what_cannot_launch_and_what_spills_is_said() -> None:
    text = printed(too_large=record(SPILL, shared_bytes=262176))
    assert "does not fit (shared memory)" in text
    assert "6 spill" in text
