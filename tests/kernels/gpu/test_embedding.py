"""Rows of an int4 table against the logical parts it was packed from."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kernels import registry
from kernels.interpreter import Interpreter
from kernels.quant_matmul.gpu_packing import pack
from tests.kernels.gpu import contract


@pytest.mark.parametrize("group_size", [32, 64, 128])
def test_every_code_comes_back(group_size: int) -> None:
    """Every row of a tile and every column of two chunks, and groups of any size."""
    rng = np.random.default_rng(group_size)
    num_rows, width = 20, 128
    parts = {
        "codes": rng.integers(0, 16, (num_rows, width), np.uint8),
        "scales": rng.uniform(0.5, 2, (num_rows, width // group_size)).astype(np.float16),
        "zeros": rng.integers(0, 16, (num_rows, width // group_size), np.uint8),
    }
    scales, zeros = (np.repeat(parts[name].astype(np.float32), group_size, axis=1) for name in ("scales", "zeros"))
    expected = (parts["codes"].astype(np.float32) - zeros) * scales
    ids = rng.permutation(num_rows).astype(np.int32)
    spec = registry.spec("gpu_embedding_int4_asym").typed("f16")
    packed = {name: torch.from_numpy(array) for name, array in pack(parts, "int4").items()}
    call: dict[str, torch.Tensor | None] = {
        "token_ids": torch.from_numpy(ids),
        "out": torch.zeros(num_rows, width, dtype=torch.float16),
        **packed,
    }
    Interpreter().run(registry.plan_call(contract.problem(spec, call), contract.TARGET), call)
    out = call["out"]
    assert out is not None
    np.testing.assert_array_equal(out.numpy(), expected[ids].astype(np.float16))
