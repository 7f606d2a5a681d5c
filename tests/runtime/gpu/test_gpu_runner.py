"""What the GPU's runner makes of a batch: padding, drawing, reuse, graphs, and what it waits for. Ops are their references."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from artifacts.manifest import Limits
from kernels import registry
from kernels.gpu.launch import OpPlan
from kernels.gpu.target import Target
from runtime.batch import Batch, Span, build_batch
from runtime.draws import Draws
from runtime.engine_core import EngineCore
from runtime.gpu.emulator import Emulator
from runtime.gpu.execution import Planner, Runnable
from runtime.gpu.program import Counts, GpuCall, GpuProgram, bound
from runtime.gpu.runner import GpuRunner, rounded_up
from runtime.request import Request, SamplingParams, TokenOutput
from tests.runtime.conftest import limits
from tests.runtime.gpu.conftest import Small

ROOM = limits(max_num_seqs=6, max_num_batched_tokens=40, max_model_len=64, num_kv_blocks=24)
TEXT = np.random.default_rng(5).integers(0, 99, 64).tolist()


@dataclass
class ByReference:
    """A call as it was prepared, run through its op's reference."""

    call: GpuCall
    counts: Counts

    def run(self, stream: int = 0) -> None:
        with torch.inference_mode():
            registry.reference(self.call.symbol)(**bound(self.call, self.counts))


@dataclass
class ReferencePlanner:
    """In place of the planner of kernels; remembers what it prepared."""

    prepared: list[Counts] = field(default_factory=list)

    def prepare(self, calls: Iterable[GpuCall], counts: Counts) -> list[Runnable]:
        self.prepared.append(counts)
        return [ByReference(call, counts) for call in calls]


@dataclass
class Recorder:
    """In place of CUDA graphs: a replay launches again."""

    num_replays: int = 0

    def record(self, launch: Callable[[], None]) -> Callable[[], None]:
        def replay() -> None:
            self.num_replays += 1
            launch()

        return replay


@pytest.fixture(scope="module")
def program(small: Callable[[str], Small]) -> Callable[..., GpuProgram]:
    """A step program in fp32, so that rounding hides nothing: of a model with experts, whose kernels see padded tokens too."""
    return partial(_program, small("deepseek_v3"))


def _program(model: Small, room: Limits = ROOM) -> GpuProgram:
    return model.program("bf16", torch.float32, room)


def runner_of(program: GpuProgram) -> tuple[GpuRunner, ReferencePlanner]:
    planner = ReferencePlanner()
    return GpuRunner(program, planner), planner  # type: ignore[arg-type]


def batch_of(lengths: Iterable[tuple[int, int, int]]) -> Batch:
    """Per sequence: where its new tokens start, how many they are, and how many have their logits computed."""
    spans = [
        Span(TEXT[start : start + count], start, range(4 * row, 4 * row + 4), num_logits)
        for row, (start, count, num_logits) in enumerate(lengths)
    ]
    return build_batch(spans, ROOM.kv_block_size)


def greedy(count: int) -> Draws:
    ones, zeros = np.ones(count, np.float32), np.zeros(count, np.float32)
    ints = np.zeros(count, np.int32)
    return Draws(zeros, ints, ones, zeros, np.zeros(count, np.int64), ints)


@st.composite
def sequences(draw: st.DrawFn) -> list[list[tuple[int, int, int]]]:
    """Two steps of up to 6 sequences: prompts or parts of them, and then a token or some more."""
    firsts = draw(st.lists(st.integers(1, 6), min_size=1, max_size=6))
    seconds = [draw(st.sampled_from([1, 1, 1, 2, 5])) for _ in firsts]
    first = [(0, count, draw(st.sampled_from([0, 1, count]))) for count in firsts]
    second = [(count, more, draw(st.sampled_from([1, 1, more]))) for count, more in zip(firsts, seconds, strict=True)]
    return [first, second]


def test_padding_changes_no_logits(program: Callable[..., GpuProgram]) -> None:
    runner, _ = runner_of(program())
    emulator = Emulator(program())

    @settings(max_examples=25)
    @given(sequences())
    def check(steps: list[list[tuple[int, int, int]]]) -> None:
        for lengths in steps:
            batch = batch_of(lengths)
            expected = emulator.run(batch)
            assert np.allclose(runner.run(batch), expected, rtol=0, atol=1e-4)

    check()


def test_a_draw_is_a_run_and_a_choice(program: Callable[..., GpuProgram]) -> None:
    runner, _ = runner_of(program())
    emulator = Emulator(program())
    for lengths in ([(0, 9, 1), (0, 3, 0), (0, 4, 1)], [(9, 1, 1), (3, 1, 1), (4, 1, 1)], [(4, 7, 0)]):
        batch = batch_of(lengths)
        count = batch.logit_rows.size
        assert runner.draw(batch, greedy(count)).tolist() == emulator.run(batch).argmax(axis=1).tolist()


def test_a_part_of_a_prompt_computes_no_logits(program: Callable[..., GpuProgram]) -> None:
    runner, planner = runner_of(program())
    assert runner.run(batch_of([(0, 7, 0)])).shape == (0, runner.vocab_size)
    assert runner.draw(batch_of([(7, 7, 0)]), greedy(0)).shape == (0,)
    assert [counts["num_logits"] for counts in planner.prepared] == [0], "only a body was prepared, once for both"


def test_logits_of_long_prompts_are_computed_some_rows_at_a_time(
    program: Callable[..., GpuProgram], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.gpu.decoder._LOGITS_AT_ONCE", 8)
    scored = program()
    assert scored.max_num_logits == 8
    batch = batch_of([(0, 21, 21), (0, 5, 1)])
    expected = Emulator(program()).run(batch)
    assert expected.shape == (22, 99)
    assert np.allclose(runner_of(scored)[0].run(batch), expected, rtol=0, atol=1e-4)


def test_steps_of_like_counts_share_what_was_prepared(program: Callable[..., GpuProgram]) -> None:
    runner, planner = runner_of(program())
    for count in (3, 4, 3):
        runner.draw(batch_of([(0, 1, 1)] * count), greedy(count))
    assert len(planner.prepared) == 3, "body, head and draw of four sequences"
    for count in (17, 30, 31):
        runner.run(batch_of([(0, count, 1)]))
    assert [(c["num_tokens"], c["num_seqs"]) for c in planner.prepared[3:] if c["num_seqs"]] == [(32, 1)]


def test_what_was_not_used_for_longest_is_forgotten(
    program: Callable[..., GpuProgram], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.gpu.runner._KEPT_PARTS", 2)
    runner, planner = runner_of(program())
    one, many, two = ([(0, 1, 0)], [(0, 17, 0)], [(0, 1, 0)] * 2)
    for lengths, num_prepared in ((one, 1), (many, 2), (one, 2), (two, 3), (one, 3), (many, 4)):
        runner.run(batch_of(lengths))
        assert len(planner.prepared) == num_prepared


def test_decode_steps_are_replayed(program: Callable[..., GpuProgram], monkeypatch: pytest.MonkeyPatch) -> None:
    runner, planner = runner_of(program())
    recorder, captured = Recorder(), []
    runner.capture(captured.append, recorder)
    assert captured == [6, 4, 2, 1]
    assert recorder.num_replays == 0

    # What graphs run over must outlive other programs.
    alive = [weakref.ref(step) for steps in runner._prepared.values() for step in steps]
    monkeypatch.setattr("runtime.gpu.runner._KEPT_PARTS", 1)
    emulator = Emulator(program())
    for lengths in ([(0, 5, 1), (0, 8, 1), (0, 2, 1), (0, 2, 1), (0, 1, 1)], [(0, 3, 1)]):
        batch = batch_of(lengths)
        expected = emulator.run(batch).argmax(axis=1).tolist()
        assert runner.draw(batch, greedy(len(lengths))).tolist() == expected
    assert all(reference() is not None for reference in alive)

    num_replays, num_prepared = recorder.num_replays, len(planner.prepared)
    for lengths in ([(5, 1, 1), (8, 1, 1), (2, 1, 1), (2, 1, 1), (1, 1, 1)], [(6, 1, 1), (9, 1, 1)], [(7, 1, 1)]):
        batch = batch_of(lengths)
        expected = emulator.run(batch).argmax(axis=1).tolist()
        assert runner.draw(batch, greedy(len(lengths))).tolist() == expected
    assert recorder.num_replays == num_replays + 3
    assert len(planner.prepared) == num_prepared

    # A token in the middle of a prompt looks like decoding, but for the logits that nobody wants.
    runner.draw(batch_of([(8, 1, 0), (10, 1, 1)]), greedy(1))
    assert recorder.num_replays == num_replays + 3


def test_a_decode_step_waits_once(program: Callable[..., GpuProgram], monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(ReferencePlanner):
        def prepare(self, calls: Iterable[GpuCall], counts: Counts) -> list[Runnable]:
            return []

    runner = GpuRunner(program(), Silent())  # type: ignore[arg-type]
    runner.capture(recorder=Recorder())
    batch, draws, waits = batch_of([(5, 1, 1), (9, 1, 1), (1, 1, 1)]), greedy(3), []

    def counting(name: str) -> Callable[..., object]:
        original = getattr(torch.Tensor, name)

        def counted(tensor: torch.Tensor, *args: object, **options: object) -> object:
            waits.append(name)
            return original(tensor, *args, **options)

        return counted

    for name in ("cpu", "item", "tolist", "nonzero", "__bool__", "__int__", "__float__", "__index__"):
        monkeypatch.setattr(torch.Tensor, name, counting(name))
    assert runner.draw(batch, draws).shape == (3,)
    assert waits == ["cpu"]


@dataclass
class Keeping:
    """An executor that keeps what it is given and runs nothing."""

    given: list[tuple[OpPlan, dict[str, torch.Tensor]]] = field(default_factory=list)

    def prepare(self, plan: OpPlan, tensors: dict[str, torch.Tensor]) -> Runnable:
        self.given.append((plan, tensors))
        return self

    def run(self, stream: int = 0) -> None:
        raise AssertionError


def test_calls_of_an_op_share_its_workspaces(small: Callable[[str], Small]) -> None:
    executor, target = Keeping(), Target.of("sm_90", 132)
    program = small("qwen3").program("int8", torch.float16, limits(max_num_seqs=4, kv_block_size=16))
    planner = Planner(executor, target, None)
    for _ in range(2):
        planner.prepare(program.body, program.counts(2, 2, 0, 1))
    used: dict[tuple[str, str, tuple[int, ...]], set[int]] = {}
    num_used = 0
    for plan, tensors in executor.given:
        assert not plan.workspaces
        names = {a.tensor for launch in plan.launches for a in launch.arguments.values() if hasattr(a, "tensor")}
        assert names <= tensors.keys()
        for name in names & {"partials", "maxima", "sums"}:
            num_used += 1
            tensor = tensors[name]
            used.setdefault((plan.launches[0].op, name, tuple(tensor.shape)), set()).add(tensor.data_ptr())
    assert num_used > len(used) > 0
    assert all(len(addresses) == 1 for addresses in used.values())
    assert len(set().union(*used.values())) == len(used)


@given(st.integers(1, 20000))
def test_rounding_up_adds_an_eighth_at_most(num_tokens: int) -> None:
    rounded = rounded_up(num_tokens)
    assert num_tokens <= rounded < num_tokens + max(16, num_tokens / 4)
    assert rounded_up(rounded) == rounded


def finish(engine: EngineCore) -> dict[str, list[TokenOutput]]:
    outputs: dict[str, list[TokenOutput]] = {}
    while engine.has_work():
        for output in engine.step():
            outputs.setdefault(output.request_id, []).append(output)
    return outputs


def test_an_engine_that_draws_says_what_one_that_samples_says(program: Callable[..., GpuProgram]) -> None:
    """Greedy requests, some of whom need logits on the host, over a cache so small that some are preempted."""
    room = ROOM.model_copy(update={"num_kv_blocks": 5, "max_num_batched_tokens": 12})
    params = [
        SamplingParams(temperature=0, max_tokens=12),
        SamplingParams(temperature=0, max_tokens=20),
        SamplingParams(temperature=0, max_tokens=3, prompt_logprobs=True, logprobs=2),
        SamplingParams(temperature=0, max_tokens=18),
        SamplingParams(temperature=0, max_tokens=8, repetition_penalty=1.3),
    ]
    spoken = []
    for runner in (Emulator(program(room)), runner_of(program(room))[0]):
        if isinstance(runner, GpuRunner):
            runner.capture(recorder=Recorder())
        engine = EngineCore(runner, [])
        for i, wanted in enumerate(params):
            engine.add(Request(str(i), tuple(TEXT[3 * i : 9 + 5 * i]), wanted))
        spoken.append({name: [output.token_id for output in outputs] for name, outputs in finish(engine).items()})
        assert engine.stats().num_preemptions > 0
    assert spoken[0] == spoken[1]
