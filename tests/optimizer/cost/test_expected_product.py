"""How long a product of experts is expected to take: by the matrices that have tokens, counted by drawing them."""

from __future__ import annotations

import numpy as np
import pytest

from kernels.gpu.launch import Problem
from kernels.moe_matmul.gpu_tuning import default_block_m
from kernels.moe_route.launch import max_blocks
from optimizer.cost.gpu.expected_product import expected_us
from optimizer.cost.gpu.facts import gpu_facts
from optimizer.cost.gpu.memory_time import start_us
from optimizer.tuning.gpu.representative import call_of
from search_spaces.space import device

H100 = gpu_facts(device("h100"))
#: experts, those of a token, hidden size and rows of gate and up, as DeepSeek-V3's configuration states them
EXPERTS, TOP_K, HIDDEN, ROWS = 256, 8, 7168, 4096


def gate_up(variant: str, tokens: int) -> Problem:
    block_m = default_block_m(tokens * TOP_K, EXPERTS)
    sizes = {"T": tokens, "J": 1, "top_k": TOP_K, "N": ROWS, "K": HIDDEN, "E": EXPERTS, "groups": HIDDEN // 64}
    sizes |= {"block_m": block_m, "num_blocks": max_blocks(tokens * TOP_K, EXPERTS, block_m)}
    return call_of(f"gpu_moe_matmul_{variant}", sizes, {})


@pytest.mark.parametrize(("variant", "bits"), [("w16", 16), ("w8", 8), ("int4_sym", 4.25), ("int4_asym", 4.5), ("mxfp4", 4.25)])
@pytest.mark.parametrize("tokens", [1, 16, 64])
def test_the_experts_that_have_tokens_are_read(variant: str, bits: float, tokens: int) -> None:
    """Zero points have 16 bits on a GPU: 4 + 32 / 64 bits a weight in groups of 64, 4 + 16 / 64 without them."""
    rng = np.random.default_rng(0)
    drawn = [np.unique([rng.permutation(EXPERTS)[:TOP_K] for _ in range(tokens)]).size for _ in range(200)]
    read_us = np.mean(drawn) * ROWS * HIDDEN * bits / 8 / (H100.memory_bandwidth_gbps * 1e3 * 0.79)
    time_us = expected_us(gate_up(variant, tokens), H100)
    assert time_us is not None
    assert time_us - start_us(H100) == pytest.approx(read_us, rel=0.02)
