"""Every shipped configuration, as its machine code for an H100 says: nothing spills, everything fits, memory is what binds
decoding, and prompts go through wgmma. The slow suite reads the largest; `make test-kernels` reads all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import pytest

from kernels.compile.cross_compile import CrossCompiler
from kernels.compile.static_record import StaticRecord
from tests.kernels.gpu import shipped
from tests.kernels.gpu.shipped import Configuration

#: How much faster than memory a decoding kernel must be able to issue: codes of four bits take instructions to widen, and those
#: of experts, where few channels are at work, have small tiles.
BOUND, BOUND_WIDENED = 1.3, 1.2
WIDENED = ("gpu_quant_matmul_int4", "gpu_moe_matmul_int4", "gpu_moe_matmul_mxfp4", "gpu_moe_matmul_nvfp4")

#: Ops that must be among those that a rule is checked on.
PRODUCTS = {"scaled_matmul", "quant_matmul", "paged_attention", "moe_matmul"}

Read: TypeAlias = list[tuple[Configuration, StaticRecord]]


@pytest.fixture(
    scope="module", params=[pytest.param("largest", marks=pytest.mark.slow), pytest.param("every", marks=pytest.mark.kernels)]
)
def read(request: pytest.FixtureRequest, compiler: CrossCompiler) -> Iterator[Read]:
    chosen = getattr(shipped, request.param)()
    yield list(zip(chosen, shipped.read(compiler, chosen), strict=True))


def test_nothing_spills(read: Read) -> None:
    assert not [f"{one}: {record.spills}" for one, record in read if record.spills]


def test_every_program_fits_on_a_multiprocessor(read: Read) -> None:
    limit = shipped.TARGET.arch.max_shared_bytes
    assert not [str(one) for one, record in read if record.shared_bytes > limit or not record.occupancy.blocks]


def test_memory_binds_decoding_not_the_issue_of_instructions(read: Read) -> None:
    bounds = [
        (one, bound)
        for one, record in read
        if one.tokens in shipped.DECODE and (bound := shipped.issue_bound(record, one.launch)) is not None
    ]
    assert {one.source.op for one, _ in bounds} >= {*PRODUCTS, "mla_attention"}
    needed = {one.symbol: BOUND_WIDENED if one.symbol.startswith(WIDENED) else BOUND for one, _ in bounds}
    assert not [f"{one}: {bound:.2f}" for one, bound in bounds if bound < needed[one.symbol]]


def test_prompts_go_through_wgmma(read: Read) -> None:
    products = [(one, record) for one, record in read if one.tokens in shipped.PREFILL and record.mix.count("tensor")]
    assert {one.source.op for one, _ in products} >= PRODUCTS
    assert not [str(one) for one, record in products if not record.uses_wgmma]
