"""scaled_matmul beyond its defaults: other tiles, fp32 logits, offsets past 2^31, the small floats, the reference's decoding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kernels import registry
from kernels.gpu.launch import Problem, TensorMeta
from kernels.gpu.target import Target
from kernels.gpu.tensors import meta
from kernels.interpreter import Interpreter
from kernels.scaled_matmul import packing
from kernels.scaled_matmul.gpu_tuning import TUNING
from tests.kernels.gpu import contract

_SMALL = Target.of("sm_90", 2)
#: Every means at once that no default takes, and the tile whose channels have two block scales.
_POINTS = {
    "persistent": {"BLOCK_M": 32, "BLOCK_N": 32, "PERSISTENT": 1, "GROUP_M": 8},
    "persistent_tma_swapped": {"BLOCK_M": 16, "BLOCK_N": 64, "PERSISTENT": 2, "USE_TMA": 1, "SWAP_AB": 1},
    "two_scales": {"BLOCK_M": 64, "BLOCK_N": 256},
    "two_scales_swapped": {"BLOCK_M": 16, "BLOCK_N": 256, "SWAP_AB": 1},
    "split_tma": {"BLOCK_M": 64, "BLOCK_N": 64, "SPLIT_K": 3, "USE_TMA": 1},
}
_BASE = {
    "BLOCK_K": 64,
    "SPLIT_K": 1,
    "GROUP_M": 1,
    "PERSISTENT": 0,
    "USE_TMA": 0,
    "SWAP_AB": 0,
    "num_warps": 8,
    "num_stages": 2,
}


@pytest.mark.parametrize("name", _POINTS)
@pytest.mark.parametrize("symbol", ["gpu_matmul", "gpu_scaled_matmul_e4m3_block", "gpu_scaled_matmul_mxfp4"])
def test_points_that_are_no_defaults(symbol: str, name: str) -> None:
    spec = registry.spec(symbol).typed("f16")
    case = next(case for case in spec.cases if case.name == "prefill")
    assert not contract.violations(spec, case, Interpreter().run, _BASE | _POINTS[name], _SMALL)
