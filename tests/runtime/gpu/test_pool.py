"""The KV cache takes what its tensors take, and never more than there is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from artifacts.precision import KvDtype
from runtime.gpu.pool import affordable_blocks, kv_block_bytes
from tests.runtime.conftest import limits
from tests.runtime.gpu.conftest import Small


@pytest.mark.parametrize(
    ("name", "kv_dtype"), [("qwen3", "bf16"), ("qwen3", "fp16"), ("qwen3", "int8"), ("mistral", "fp8"), ("deepseek_v3", "bf16")]
)
def test_a_block_takes_what_its_tensors_take(small: Callable[[str], Small], name: str, kv_dtype: KvDtype) -> None:
    room = limits()
    program = small(name).program("bf16", torch.float16, room, kv_dtype)
    tensors = ("k_cache", "v_cache", "k_scales", "v_scales", "cache")
    found = {
        id(tensor): tensor.nbytes
        for call in program.body
        if "rope" in call.symbol
        for argument in tensors
        if isinstance(tensor := call.arguments.get(argument), torch.Tensor)
    }
    assert sum(found.values()) == room.num_kv_blocks * kv_block_bytes(small(name).architecture, kv_dtype, room.kv_block_size)


def test_a_cpu_s_cache_is_refused(small: Callable[[str], Small]) -> None:
    with pytest.raises(ValueError, match="a KV cache on a GPU is bf16, fp16, int8, fp8; got fp32"):
        kv_block_bytes(small("qwen3").architecture, "fp32", 16)


@given(st.integers(0, 10**6), st.integers(1, 1000), st.integers(0, 1000), st.integers(1, 2000))
def test_blocks_fit_beside_the_reserve(free: int, block: int, reserve: int, wanted: int) -> None:
    blocks = affordable_blocks(free, block, reserve, wanted, least=0)
    assert blocks <= wanted
    assert blocks == 0 or blocks * block + reserve <= free
    assert blocks == wanted or (blocks + 1) * block + reserve > free


def test_too_few_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"at least 8 blocks.*4\.00 GiB are free, of which 1\.00 GiB.*hold 3; free memory"):
        affordable_blocks(4 << 30, 1 << 30, 1 << 30, 100, 8)
