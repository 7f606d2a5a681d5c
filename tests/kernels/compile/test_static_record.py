"""What the record of a kernel says, of kernels whose outline is known, and of SASS that is written here."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from kernels.compile.instructions import Mix, Row, UnreadableCode
from kernels.compile.static_record import KernelBinary, Loop, StaticRecord, static_record, static_records
from tests.kernels.compile.conftest import Compiled

Records = Callable[[str, str], StaticRecord]


def loop(label: str, depth: int, *rows: Row) -> Loop:
    return Loop(label, depth, Mix(rows))


def made_of(*loops: Loop, arch: str = "sm_90", num_warps: int = 4) -> StaticRecord:
    return StaticRecord(arch, num_warps, 0, 64, 0, 0, 0, 1600, Mix(()), loops)


LOAD = Row("LDG.128", "global_load", 16, 4)
NARROW = Row("LDG.16", "global_load", 2, 32)
MMA = Row("HGMMA.64x128x16.F32.BF16", "tensor", 0, 4)
TMA = Row("UTMALDG.2D", "tma_load", 0, 2)
ARITHMETIC = Row("FFMA", "float", 0, 96)
WAIT = Row("SYNCS", "barrier", 0, 1)


@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_100", "gfx942", "gfx950"])
def test_every_instruction_of_a_sample_is_of_a_known_kind(arch: str, record: Records) -> None:
    found = record("matmul", arch)
    assert found.mix.forms("other") == {}
    assert found.mix.total > 100
    assert found.spills == found.stack_bytes == 0
    assert found.occupancy.blocks > 0


def test_64_rows_are_multiplied_by_wgmma_on_hopper(record: Records) -> None:
    found = record("matmul", "sm_90")
    assert found.uses_wgmma and found.uses_async_copy and not found.uses_tma
    assert found.hot_loop
    # 64 x 128 x 64 of bf16: one warpgroup, k in steps of 16.
    assert found.hot_loop.mix.forms("tensor") == {"HGMMA.64x128x16.F32.BF16": 4}


def test_16_rows_are_not(record: Records) -> None:
    found = record("small_matmul", "sm_90")
    assert not found.uses_wgmma
    assert found.hot_loop
    # 16 x 64 x 128 in fragments of 16 x 8 x 16 is 64, shared by 4 warps.
    assert found.hot_loop.mix.forms("tensor") == {"HMMA.16816.F32.BF16": 16}


def test_the_same_on_ampere_and_blackwell(record: Records) -> None:
    ampere, blackwell = record("matmul", "sm_80"), record("matmul", "sm_100")
    assert not ampere.uses_wgmma and not blackwell.uses_wgmma
    assert blackwell.uses_tcgen05 and not ampere.uses_tcgen05
    assert ampere.hot_loop
    # 64 x 128 x 64 in fragments of 16 x 8 x 16 is 256, shared by 4 warps.
    assert ampere.hot_loop.mix.forms("tensor") == {"HMMA.16816.F32.BF16": 64}


def test_the_bytes_of_an_iteration_are_those_of_the_tiles(record: Records) -> None:
    """A tile of 64 x 64 and one of 128 x 64 of bf16, whatever loads them: cp.async here, plain loads on gfx942."""
    for arch in ("sm_80", "sm_90", "sm_100", "gfx942", "gfx950"):
        assert record("matmul", arch).streamed_bytes() == (64 * 64 + 128 * 64) * 2
    assert record("small_matmul", "sm_90").streamed_bytes() == (16 * 128 + 64 * 128) * 2


def test_matrix_instructions_of_amd_do_the_tiles_work(record: Records) -> None:
    """32 x 32 x 8 (gfx942) and 32 x 32 x 16 (gfx950) at a time, shared by 4 waves."""
    for arch, depth in (("gfx942", 8), ("gfx950", 16)):
        hot = record("matmul", arch).hot_loop
        assert hot and hot.mix.count("tensor") == 64 * 128 * 64 // (32 * 32 * depth) // 4


def test_the_loop_over_k_is_hot_and_the_loop_over_tiles_is_around_it(record: Records) -> None:
    found = record("persistent_matmul", "sm_90")
    assert found.uses_tma and found.uses_wgmma
    assert found.hot_loop and found.hot_loop.depth == 2
    # 128 x 128 x 64: two warpgroups of 64 rows, k in steps of 16.
    assert found.hot_loop.mix.forms("tensor") == {"HGMMA.64x128x16.F32.BF16": 4}
    assert found.hot_loop.mix.count("tma_load") == 2


def test_a_kernel_starved_of_registers_spills(record: Records) -> None:
    found = record("starved_matmul", "sm_80")
    assert found.registers <= 48
    assert found.spills > 100 and found.stack_bytes > 0


def test_an_elementwise_kernel_has_no_loop(record: Records) -> None:
    found = record("exponential", "sm_90")
    # 1024 elements by 128 threads: 8 a thread, in two vectors.
    assert found.mix.forms("transcendental") == {"MUFU.EX2": 8}
    assert found.mix.lane_bytes("global_load") == found.mix.lane_bytes("global_store") == 32
    assert found.loops == () and found.hot_loop is None
    with pytest.raises(ValueError, match="of 0 loops none does"):
        found.issue_bound(clock_ghz=1.755, num_sms=132)


def test_code_size_is_that_of_the_instructions(record: Records) -> None:
    found = record("copy", "sm_80")
    assert found.code_bytes == 16 * found.mix.total


def test_hot_is_the_nested_loop_not_the_richer_one_around_it() -> None:
    outer = loop("outer", 1, Row("LDG.128", "global_load", 16, 20))
    inner = loop("inner", 2, LOAD, MMA)
    spin = loop("spin", 3, WAIT)
    assert made_of(outer, inner, spin).hot_loop == inner


def test_hot_is_the_loop_that_moves_more_not_the_one_with_more_loads() -> None:
    tail, main = loop("tail", 1, NARROW, ARITHMETIC), loop("main", 1, LOAD, MMA)
    assert made_of(tail, main).hot_loop == main


def test_of_equal_work_the_shorter_loop_is_hot() -> None:
    masked, plain = loop("masked", 1, LOAD, MMA, ARITHMETIC), loop("plain", 1, LOAD, MMA)
    assert made_of(masked, plain).hot_loop == plain


def test_the_issue_bound_by_hand() -> None:
    """100 instructions x 8 warps / 4 schedulers = 200 clocks for 16 x 4 x 32 x 8 = 16384 bytes; 1.755 GHz, 132 SMs."""
    found = made_of(loop("main", 1, LOAD, ARITHMETIC), num_warps=8)
    assert found.streamed_bytes() == 16384
    assert found.issue_bound(clock_ghz=1.755, num_sms=132) == pytest.approx(16384 / 200 * 1.755e9 * 132)
    assert found.issue_bound(clock_ghz=1.755, num_sms=132, bytes_per_iteration=8192) == pytest.approx(
        8192 / 200 * 1.755e9 * 132
    )


def test_the_issue_bound_on_amd_counts_vector_instructions_at_four_clocks() -> None:
    rows = (
        Row("global_load_dwordx4", "global_load", 16, 2),
        Row("v_fma_f32", "float", 0, 50),
        Row("s_add_i32", "uniform", 0, 30),
    )
    found = made_of(loop("main", 1, *rows), arch="gfx942")
    assert found.issue_bound(clock_ghz=2.1, num_sms=304) == pytest.approx(2 * 16 * 64 * 4 / (50 * 4) * 2.1e9 * 304)


def test_the_bytes_of_tma_loads_must_be_given() -> None:
    found = made_of(loop("main", 1, TMA, MMA))
    with pytest.raises(ValueError, match="give bytes_per_iteration"):
        found.issue_bound(clock_ghz=1.755, num_sms=132)
    assert found.issue_bound(clock_ghz=1.0, num_sms=1, bytes_per_iteration=600) == pytest.approx(600 / 6 * 1e9)


@pytest.mark.parametrize(("name", "arch"), [("persistent_matmul", "sm_90"), ("matmul", "gfx950")])
def test_a_record_survives_json(name: str, arch: str, record: Records) -> None:
    found = record(name, arch)
    assert StaticRecord.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_kernels_read_together_are_as_read_alone(compiled: Callable[[str, str], Compiled], record: Records) -> None:
    """Of several architectures and makers, one of them twice."""
    names = [("matmul", "sm_90"), ("matmul", "gfx942"), ("copy", "sm_80"), ("persistent_matmul", "sm_90"), ("matmul", "sm_90")]
    kernels = [compiled(name, arch) for name, arch in names]
    binaries = [
        KernelBinary(kernel.binary, arch, kernel.num_warps, kernel.shared_bytes)
        for kernel, (_, arch) in zip(kernels, names, strict=True)
    ]
    assert static_records(binaries) == [record(name, arch) for name, arch in names]


def test_a_damaged_mix_is_refused() -> None:
    with pytest.raises(UnreadableCode, match="take the record again"):
        Mix.from_json([["LDG.128", "telepathy", 16, 4]])


def test_a_record_of_other_fields_is_refused(record: Records) -> None:
    fields = record("copy", "sm_80").to_json()
    for damaged in ({**fields, "verve": 3}, {name: value for name, value in fields.items() if name != "registers"}, {}):
        with pytest.raises(UnreadableCode, match=r"a record has arch, num_warps, .*loops; .* take the record again"):
            StaticRecord.from_json(damaged)


def test_a_loop_that_issues_nothing_that_competes_has_no_issue_bound() -> None:
    """Loads of scalar addresses on AMD: no vector instruction."""
    found = made_of(loop("main", 1, Row("global_load_dwordx4", "global_load", 16, 2)), arch="gfx942")
    assert found.issue_bound(clock_ghz=2.1, num_sms=304) == float("inf")


def test_the_binary_must_be_of_the_architecture() -> None:
    with pytest.raises(ValueError, match="got str for sm_90"):
        static_record("text", arch="sm_90", num_warps=4, shared_bytes=0)
    with pytest.raises(UnreadableCode, match="64-bit ELF"):
        static_record(b"hello" * 20, arch="sm_90", num_warps=4, shared_bytes=0)
    with pytest.raises(ValueError, match="got 'sm_75'"):
        static_record(b"", arch="sm_75", num_warps=4, shared_bytes=0)
