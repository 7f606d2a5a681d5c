"""Occupancy against values worked out by hand from the tables that its facts come from."""

from __future__ import annotations

import pytest

from kernels.compile.occupancy import MULTIPROCESSORS, Limit, occupancy
from kernels.gpu.target import ARCHS

#: arch, warps, registers, shared bytes -> blocks, limit
BY_HAND: list[tuple[str, int, int, int, int, Limit]] = [
    # 255 x 32 = 8160 registers a warp, given as 8192; 16384 per scheduler hold 2 warps, an SM 8, that is 2 blocks of 4.
    ("sm_90", 4, 255, 0, 2, "registers"),
    # 168 x 32 = 5376 = 21 units; 3 warps per scheduler, 12 an SM, 3 blocks of 4.
    ("sm_90", 4, 168, 0, 3, "registers"),
    # 169 x 32 = 5408, given as 5632: 2 per scheduler, 8 an SM.
    ("sm_90", 4, 169, 0, 2, "registers"),
    # 128 x 32 = 4096: 4 per scheduler, 16 an SM, 2 blocks of 8.
    ("sm_90", 8, 128, 0, 2, "registers"),
    # 32 x 32 = 1024: 16 per scheduler, 64 an SM, 16 blocks of 4; and 64 / 4 = 16 by warps, named first.
    ("sm_90", 4, 32, 0, 16, "warps"),
    # One warp a block: 64 by warps, but an SM holds 32 blocks.
    ("sm_90", 1, 32, 0, 32, "blocks"),
    # 255 registers, one warp: 8 warps an SM.
    ("sm_90", 1, 255, 0, 8, "registers"),
    # 16 warps x 255 registers: 8 warps fit, so not even one block.
    ("sm_90", 16, 255, 0, 0, "registers"),
    # 73728 + 1024 = 74752 a block; 228 KiB = 233472 hold 3.
    ("sm_90", 4, 64, 73728, 3, "shared memory"),
    # 227 KiB + 1 KiB fill the SM; one byte more is given as 128 and does not fit.
    ("sm_90", 4, 64, 227 * 1024, 1, "shared memory"),
    ("sm_90", 4, 64, 227 * 1024 + 1, 0, "shared memory"),
    # 164 KiB = 167936; 49152 + 1024 = 50176; 3.
    ("sm_80", 4, 64, 49152, 3, "shared memory"),
    # 48 warps: 12 blocks of 4 by warps; 40 x 32 = 1280: 12 per scheduler, 48 an SM, 12.
    ("sm_86", 4, 40, 0, 12, "warps"),
    ("sm_86", 1, 32, 0, 16, "blocks"),
    ("sm_89", 1, 32, 0, 24, "blocks"),
    # 100 KiB = 102400; 49152 + 1024 = 50176; 2.
    ("sm_89", 4, 64, 49152, 2, "shared memory"),
    ("sm_120", 4, 64, 49152, 2, "shared memory"),
    ("sm_120", 2, 32, 0, 24, "warps"),
    ("sm_100", 4, 255, 0, 2, "registers"),
    # 512 VGPRs a SIMD: 128 each let 4 waves in, 16 a CU, 4 blocks of 4; 129 are given as 136: 3 waves.
    ("gfx942", 4, 128, 0, 4, "registers"),
    ("gfx942", 4, 129, 0, 3, "registers"),
    # 24 VGPRs would let 21 waves in; a SIMD holds 8, a CU 32.
    ("gfx942", 4, 24, 0, 8, "warps"),
    ("gfx942", 2, 24, 0, 16, "warps"),
    ("gfx942", 1, 24, 0, 32, "warps"),
    # 64 KiB of LDS: 24576 is 48 units of 512; 2 blocks. gfx950 has 160 KiB: 24576 is given as 20 x 1280 = 25600; 6.
    ("gfx942", 4, 64, 24576, 2, "shared memory"),
    ("gfx950", 4, 64, 24576, 6, "shared memory"),
]


@pytest.mark.parametrize(("arch", "num_warps", "registers", "shared_bytes", "blocks", "limit"), BY_HAND)
def test_blocks_per_sm(arch: str, num_warps: int, registers: int, shared_bytes: int, blocks: int, limit: Limit) -> None:
    found = occupancy(arch, num_warps=num_warps, registers=registers, shared_bytes=shared_bytes)
    assert (found.blocks, found.warps, found.limit) == (blocks, blocks * num_warps, limit)


def test_scalar_registers_limit_the_waves_of_a_cu() -> None:
    """106 SGPRs are given as 112, and 16 more to the trap handler: 800 / 128 = 6 waves a SIMD, 24 a CU, 6 blocks of 4."""
    found = occupancy("gfx942", num_warps=4, registers=24, shared_bytes=0, scalar_registers=106)
    assert (found.blocks, found.limit) == (6, "scalar registers")


def test_the_fraction_is_of_the_warps_that_an_sm_could_hold() -> None:
    assert occupancy("sm_90", num_warps=4, registers=255, shared_bytes=0).fraction == 8 / 64


@pytest.mark.parametrize("arch", MULTIPROCESSORS)
def test_what_a_program_may_ask_for_fits_an_sm_once(arch: str) -> None:
    """Two tables of one guide: shared memory per block, and per SM."""
    most = ARCHS[arch].max_shared_bytes
    assert occupancy(arch, num_warps=4, registers=64, shared_bytes=most).blocks == 1
    assert occupancy(arch, num_warps=4, registers=64, shared_bytes=most + 1).blocks == 0


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(ValueError, match=r"one of sm_80, .*gfx950; got 'sm_75'"):
        occupancy("sm_75", num_warps=4, registers=64, shared_bytes=0)
