"""Whatever the runner prepares in service is among the calls that kernels were frozen for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from artifacts.precision import KvDtype
from kernels import registry
from kernels.gpu.points import point_key
from kernels.gpu.tensors import problem
from optimizer.cost.gpu_steps import StepShapes
from runtime.batch import Span, build_batch
from runtime.gpu.execution import Runnable
from runtime.gpu.program import Counts, GpuCall, bound
from runtime.gpu.runner import GpuRunner
from tests.runtime.conftest import limits
from tests.runtime.gpu.conftest import Small


@dataclass
class KeyPlanner:
    """In place of the planner of kernels: remembers which points it would look up."""

    keys: set[str] = field(default_factory=set)

    def prepare(self, calls: Iterable[GpuCall], counts: Counts) -> list[Runnable]:
        self.keys |= {point_key(problem(registry.spec(call.symbol), bound(call, counts))) for call in calls}
        return []


class Now:
    """In place of CUDA graphs."""

    def record(self, launch: Callable[[], None]) -> Callable[[], None]:
        return launch


@pytest.mark.parametrize(("max_num_seqs", "max_num_batched_tokens"), [(1, 16), (6, 40), (24, 300), (8, 8)])
@pytest.mark.parametrize(("name", "schemes", "kv_dtype"), [("deepseek_v3", "bf16", "bf16"), ("qwen3", "int8-a8", "int8")])
def test_every_step_finds_its_points(
    small: Callable[[str], Small],
    name: str,
    schemes: str,
    kv_dtype: KvDtype,
    max_num_seqs: int,
    max_num_batched_tokens: int,
) -> None:
    model = small(name)
    room = limits(max_num_seqs=max_num_seqs, max_num_batched_tokens=max_num_batched_tokens, num_kv_blocks=8)
    planner = KeyPlanner()
    runner = GpuRunner(model.program(schemes, torch.float16, room, kv_dtype), planner)  # type: ignore[arg-type]
    runner.capture(recorder=Now())

    @settings(max_examples=30)
    @given(st.data())
    def serve(data: st.DataObject) -> None:
        count, tokens = data.draw(st.integers(1, max_num_seqs)), max_num_batched_tokens
        spans = []
        for left in range(count, 0, -1):
            length = data.draw(st.integers(1, min(max(1, tokens - left + 1), room.max_model_len)))
            tokens -= length
            spans.append(Span([0] * length, 0, range(8), data.draw(st.sampled_from([0, 1, length]))))
        runner.run(build_batch(spans, room.kv_block_size))

    serve()
    frozen = {point_key(p) for p in StepShapes(model.architecture, model.plan(schemes), kv_dtype, room, "f16").served()}
    assert planner.keys <= frozen
