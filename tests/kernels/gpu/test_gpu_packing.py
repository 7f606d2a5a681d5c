"""The int4 layout of the GPU: round trips, and its fragments bit by bit."""

from __future__ import annotations

import time

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.quant_matmul.gpu_packing import pack, unpack
from kernels.spec import Array


def logical(rng: np.random.Generator, rows: int, columns: int, group_size: int, symmetric: bool = False) -> dict[str, Array]:
    groups = (rows, columns // group_size)
    parts: dict[str, Array] = {
        "codes": rng.integers(0, 16, (rows, columns), np.uint8),
        "scales": rng.standard_normal(groups, np.float32).astype(np.float16),
    }
    return parts if symmetric else parts | {"zeros": rng.integers(0, 17, groups, np.uint8)}


@given(
    rows=st.integers(1, 40),
    groups=st.integers(1, 5),
    group_size=st.sampled_from([32, 64, 128]),
    symmetric=st.booleans(),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=60)
def test_unpack_inverts_pack(rows: int, groups: int, group_size: int, symmetric: bool, seed: int) -> None:
    parts = logical(np.random.default_rng(seed), rows, groups * group_size, group_size, symmetric)
    packed = pack(parts, "int4")
    assert all(array.shape[0] == -(-rows // 16) and array.flags.c_contiguous for array in packed.values())
    restored = unpack(packed, "int4", rows, groups * group_size)
    assert restored.keys() == parts.keys()
    for name, array in parts.items():
        assert restored[name].dtype == array.dtype
        np.testing.assert_array_equal(restored[name], array)


def test_int8_stays_as_it_is() -> None:
    parts: dict[str, Array] = {"codes": np.arange(-8, 8, dtype=np.int8).reshape(2, 8), "scales": np.ones(2, np.float32)}
    packed = pack(parts, "int8")
    assert not np.shares_memory(packed["codes"], parts["codes"])
    for name, array in unpack(packed, "int8", 2, 8).items():
        np.testing.assert_array_equal(array, parts[name])


def test_a_lane_finds_the_fragments_of_its_instructions() -> None:
    """PTX ISA, mma.m16n8k16: register j of lane l has row l / 4 + 8 (j % 2), columns 2 (l % 4) + 8 (j / 2) + {0, 1} of A."""
    parts = logical(np.random.default_rng(0), 30, 192, 64)
    packed = pack(parts, "int4")
    codes = np.zeros((32, 192), np.uint8)
    codes[:30] = parts["codes"]
    for tile, chunk, lane in ((0, 0, 0), (1, 2, 31), (1, 1, 13), (0, 2, 6)):
        load = packed["codes"][tile, chunk, 4 * lane : 4 * lane + 4]
        for instruction in range(4):
            for register in range(4):
                row = tile * 16 + lane // 4 + 8 * (register % 2)
                column = chunk * 64 + instruction * 16 + 2 * (lane % 4) + 8 * (register // 2)
                word = int(load[2 * (instruction // 2) + register % 2])
                pair = word >> 4 * (2 * (instruction % 2) + register // 2) & 0x000F000F
                assert (pair & 0xFFFF, pair >> 16) == (codes[row, column], codes[row, column + 1])
        row = tile * 16 + lane // 4
        assert packed["scales"][tile, 1, 2 * (lane // 4)] == parts["scales"][row, 1]
        zeros = int(packed["zeros"][tile, 1, lane // 4])
        assert zeros & 0xFFFF == parts["zeros"][row, 1]
        assert row + 8 >= 30 or zeros >> 16 == parts["zeros"][row + 8, 1]


def test_a_matrix_of_14_million_weights_packs_quickly() -> None:
    codes = np.random.default_rng(0).integers(0, 16, (4096, 3584), np.uint8)
    start = time.perf_counter()
    pack({"codes": codes, "scales": np.ones((4096, 28), np.float16)}, "int4")
    assert time.perf_counter() - start < 3
