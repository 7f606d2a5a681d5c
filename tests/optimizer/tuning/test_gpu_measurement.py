"""Measuring candidates, with a scripted clock in place of a GPU; and the tensors that they would be measured on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from kernels.gpu.oracle import values
from kernels.gpu.tensors import TORCH_DTYPES, problem
from kernels.registry import reference, specs
from optimizer.tuning.gpu.inputs import sample_tensors
from optimizer.tuning.gpu.measurement import interleaved_us


class ScriptedClock:
    """Every third run of it is disturbed, as on a device that others use."""

    def __init__(self) -> None:
        self.count = 0
        self.us = 0.0

    def elapsed_us(self, run: Callable[[], None]) -> float:
        run()
        self.count += 1
        return self.us + (100.0 if self.count % 3 == 0 else 0.0)


def test_candidates_take_turns_and_disturbances_do_not_count() -> None:
    clock = ScriptedClock()
    order: list[int] = []

    def candidate(index: int, us: float) -> Callable[[], None]:
        def run() -> None:
            order.append(index)
            clock.us = us

        return run

    times = interleaved_us([candidate(0, 5.0), candidate(1, 3.0)], clock, rounds=8)
    assert times == [5.0, 3.0]
    assert order[:2] == [0, 1], "once each before anything counts"
    rounds = [order[at : at + 2] for at in range(2, len(order), 2)]
    assert all(sorted(each) == [0, 1] for each in rounds)
    assert [each[0] for each in rounds] == [0, 1] * 4, "nobody always runs behind the same neighbour"


@pytest.mark.parametrize("symbol", specs("gpu"))
def test_sampled_tensors_are_those_of_the_call(symbol: str) -> None:
    """The reference reads nothing that is not there, and writes numbers."""
    contract = specs("gpu")[symbol].typed("bf16")
    made = values(contract, contract.make_inputs(np.random.default_rng(0), contract.cases[0]))
    call = problem(contract, made)
    sampled = sample_tensors(call, context_tokens=20, device="cpu")
    for name, meta in call.tensors.items():
        tensor = sampled[name]
        assert (tensor.dtype, tuple(tensor.shape), tensor.stride()) == (TORCH_DTYPES[meta.dtype], meta.shape, meta.strides)
    reference(symbol)(**{**made, **sampled})
    for tensor in contract.tensors:
        if tensor.role == "out" and sampled[tensor.name].dtype in (torch.float32, torch.bfloat16):
            assert torch.isfinite(sampled[tensor.name].float()).all(), tensor.name
