"""Tuning on compiled kernels, and on scripted records of them where a test is about what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kernels.compile.cross_compile import CrossCompiler, KernelCompileFailed
from kernels.compile.instructions import Mix, Row
from kernels.compile.static_record import Loop, StaticRecord
from kernels.gpu.frozen import FrozenKernels
from kernels.gpu.kernel_source import KernelSource
from kernels.gpu.launch import OpPlan, Problem
from kernels.gpu.points import PointTable, point_key
from kernels.gpu.target import Target
from kernels.registry import gpu_tuning, plan_call
from optimizer.records.ledger import Ledger
from optimizer.records.progress import Reporter
from optimizer.tuning.gpu import GpuTuner, NoKernelFits, TunedCall
from optimizer.tuning.gpu.compiled import Known
from optimizer.tuning.gpu.measurement import Measurer
from optimizer.tuning.gpu.representative import representatives
from search_spaces.schema import KernelSpace
from search_spaces.space import device, load_space

SM_90 = Target.of("sm_90", 132)
Record = Callable[[KernelSource], Known]


@pytest.fixture(scope="module")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CrossCompiler]:
    with CrossCompiler(tmp_path_factory.mktemp("kernels"), jobs=1) as made:
        yield made


def ledger(folder: Path) -> Ledger:
    return Ledger(f"sqlite:///{folder / 'study.db'}", "test")


def one(symbol: str, tokens: int, name: str = "llama") -> Problem:
    return next(each.problem for each in representatives(symbol, (tokens,)) if name in each.name)


class Unused(CrossCompiler):
    """Must not be asked."""

    def compile(self, *arguments: object) -> dict[str, KernelCompileFailed]:  # type: ignore[override]
        raise AssertionError("nothing was to be compiled")


def test_the_same_points_again_and_from_records(compiler: CrossCompiler, tmp_path: Path) -> None:
    calls = [one("gpu_rms_norm", 16), one("gpu_rms_norm", 12), one("gpu_quant_matmul_int4_sym", 16, "llama-3.1-8b o")]
    spaces = load_space(kind="gpu").kernels
    (tmp_path / "other").mkdir()
    first = GpuTuner(device("h100"), SM_90, spaces, compiler, ledger(tmp_path), Reporter()).tune(calls, top_k=2)
    again = GpuTuner(device("h100"), SM_90, spaces, compiler, ledger(tmp_path / "other"), Reporter()).tune(calls[::-1], top_k=2)
    known = GpuTuner(device("h100"), SM_90, spaces, Unused(tmp_path), ledger(tmp_path), Reporter()).tune(calls, top_k=2)
    assert first == again == known
    assert set(first) == {point_key(call) for call in calls}
    table = PointTable(SM_90.num_sms, {key: call.point for key, call in first.items()})
    for call in calls:
        plan_call(call, SM_90, table.point(call))
    matmul = first[point_key(calls[2])]
    assert matmul.record.spills == 0
    assert matmul.record.issue_bound_ratio is not None and matmul.record.issue_bound_ratio > 1
    assert matmul.record.registers > 16 and 0 < matmul.record.occupancy <= 1
    assert not matmul.measured and matmul.time_us > 0
    assert TunedCall.from_json(matmul.to_json()) == matmul


def a_record(**changes: object) -> StaticRecord:
    """A plain kernel that streams well."""
    mix = Mix((Row("LDG.128", "global_load", 16, 8), Row("FFMA", "float", 0, 8)))
    plain = StaticRecord("sm_90", 4, 1024, 64, 0, 0, 0, 2048, mix, (Loop("loop", 1, mix),))
    return replace(plain, **changes)  # type: ignore[arg-type]


class ScriptedKernels:
    """In place of the compiler and the disassembler: what `record` says of each source, and which were asked for."""

    def __init__(self, record: Record) -> None:
        self._record, self.batches = record, list[list[KernelSource]]()

    def records(self, sources: Sequence[KernelSource]) -> Mapping[str, Known]:
        self.batches.append(list(sources))
        return {source.identity: self._record(source) for source in sources}

    def frozen(self, sources: Sequence[KernelSource]) -> FrozenKernels:
        return FrozenKernels("sm_90", [])


def scripted(
    folder: Path, record: Record, measurer: Measurer | None = None, **spaces: dict[str, tuple[int, ...]]
) -> tuple[GpuTuner, ScriptedKernels]:
    offered = {op: KernelSpace(constants=constants) for op, constants in spaces.items()} or load_space(kind="gpu").kernels
    tuner = GpuTuner(device("h100"), SM_90, offered, Unused(folder), ledger(folder), Reporter(), measurer=measurer)
    kernels = ScriptedKernels(record)
    tuner._kernels = kernels  # type: ignore[assignment]
    return tuner, kernels


MATMUL = one("gpu_matmul", 16)
SPILLING = a_record(mix=Mix((Row("STL", "spill", 4, 3),)))


def test_what_spills_gives_way_to_the_next_candidates(tmp_path: Path) -> None:
    def spills_on_four_warps(source: KernelSource) -> Known:
        return SPILLING if source.num_warps == 4 and source.function == "scaled_matmul_kernel" else a_record()

    tuner, _ = scripted(tmp_path, spills_on_four_warps)
    best = tuner.ranked(MATMUL)[0]
    (tuned,) = tuner.tune([MATMUL]).values()
    assert best.point["num_warps"] == 4
    assert tuned.point["num_warps"] == 8
    assert tuned.record.spills == 0


def test_only_the_best_are_compiled(tmp_path: Path) -> None:
    tuner, kernels = scripted(tmp_path, lambda source: a_record())
    (tuned,) = tuner.tune([MATMUL], top_k=3).values()
    assert len(kernels.batches) == 1
    best = [dict(each.point) for each in tuner.ranked(MATMUL)[:3]]
    assert tuned.point in best
    assert tuned.num_candidates > 1000


def test_calls_of_one_key_share_a_point_that_is_modelled_on_the_largest(tmp_path: Path) -> None:
    tuner, _ = scripted(tmp_path, lambda source: a_record())
    small, large = one("gpu_rms_norm", 1800), one("gpu_rms_norm", 2048)
    assert point_key(small) == point_key(large)
    assert tuner.tune([small, large]) == tuner.tune([large, small])
    (both,), (alone,) = tuner.tune([small, large]).values(), tuner.tune([large]).values()
    assert (both.point, both.time_us) == (alone.point, alone.time_us)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (SPILLING, "3 instructions spill"),
        (a_record(shared_bytes=240_000), "240000 bytes of shared memory"),
        (a_record(registers=256), "not one block fits on an SM, for its registers"),
        (KernelCompileFailed("the compiler crashed"), "the compiler crashed"),
    ],
)
def test_where_no_kernel_is_fit_the_error_says_why(tmp_path: Path, record: Known, reason: str) -> None:
    tuner, kernels = scripted(tmp_path, lambda source: record)
    with pytest.raises(NoKernelFits, match=reason) as raised:
        tuner.tune([MATMUL])
    assert point_key(MATMUL) in str(raised.value)
    assert len(kernels.batches) == 4


def test_a_prompt_without_wgmma_is_refused(tmp_path: Path) -> None:
    tuner, _ = scripted(tmp_path, lambda source: a_record())
    with pytest.raises(NoKernelFits, match="the compiler did not use it"):
        tuner.tune([one("gpu_matmul", 2048)])


def test_a_low_issue_bound_is_taken_only_where_all_are_low(tmp_path: Path) -> None:
    busy = Mix((Row("LDG.128", "global_load", 16, 8), Row("LOP3", "logic", 0, 20_000)))

    def by_warps(source: KernelSource) -> Known:
        return a_record(loops=(Loop("loop", 1, busy),), num_warps=source.num_warps) if source.num_warps == 4 else a_record()

    call = one("gpu_matmul", 16, "llama-3.1-8b gate_up")
    tuner, _ = scripted(tmp_path, by_warps)
    (tuned,) = tuner.tune([call]).values()
    assert tuned.point["num_warps"] == 8
    (tmp_path / "low").mkdir()
    tuner, _ = scripted(tmp_path / "low", lambda source: a_record(loops=(Loop("loop", 1, busy),)))
    (tuned,) = tuner.tune([call]).values()
    assert tuned.record.issue_bound_ratio is not None and tuned.record.issue_bound_ratio < 1


def test_no_legal_point_names_the_rule(tmp_path: Path) -> None:
    call = one("gpu_scaled_matmul_e4m3", 16)
    tuner = GpuTuner(
        device("a100"), Target.of("sm_80", 108), load_space(kind="gpu").kernels, Unused(tmp_path), ledger(tmp_path), Reporter()
    )
    for ask in (tuner.time_us, lambda problem: tuner.tune([problem])):
        with pytest.raises(NoKernelFits, match="sm_80 does not multiply e4m3"):
            ask(call)


class ScriptedMeasurer:
    """Says for each plan what `us` says of its number of warps."""

    device = "cpu"

    def __init__(self, us: Mapping[int, float]) -> None:
        self._us, self.count = us, 0

    def times_us(self, plans: Sequence[OpPlan], kernels: FrozenKernels, tensors: Mapping[str, torch.Tensor]) -> list[float]:
        self.count += 1
        assert tensors["x"].shape == (16, 1, 4096)
        return [self._us[plan.launches[0].num_warps] for plan in plans]


@pytest.mark.parametrize(
    ("us", "chosen"),
    [
        ({2: 9.0, 4: 8.0, 8: 7.0, 16: 5.0}, 16),
        # Within 5 % of the fastest the order of the space decides.
        ({2: 9.0, 4: 5.2, 8: 5.1, 16: 5.0}, 8),
    ],
)
def test_with_a_device_its_times_decide(tmp_path: Path, us: Mapping[int, float], chosen: int) -> None:
    measurer = ScriptedMeasurer(us)
    loopless = a_record(loops=())
    tuner, _ = scripted(tmp_path, lambda source: loopless, measurer, rms_norm={"num_warps": (8, 4, 2, 16)})
    (tuned,) = tuner.tune([one("gpu_rms_norm", 16)], top_k=4).values()
    assert (tuned.point, tuned.time_us, tuned.measured) == ({"num_warps": chosen}, us[chosen], True)
    tuner.tune([one("gpu_rms_norm", 16)], top_k=4)
    assert measurer.count == 1, "a measurement is a record"


def test_the_kv_block_size_comes_with_attentions_point(tmp_path: Path) -> None:
    tuner, _ = scripted(tmp_path, lambda source: a_record())

    def calls(block_size: int) -> list[Problem]:
        made = []
        for tokens in (64, 2048):
            call = one("gpu_paged_attention_e4m3", tokens)
            _, _, *rest = call["k_cache"].shape
            shapes = {
                "k_cache": (512, block_size, *rest),
                "v_cache": (512, block_size, *rest),
                "k_scales": (512, block_size, rest[0]),
                "v_scales": (512, block_size, rest[0]),
                "block_tables": (call["block_tables"].shape[0], 4096 // block_size),
            }
            tensors = {name: type(t).contiguous(t.dtype, *shapes.get(name, t.shape)) for name, t in call.tensors.items()}
            made.append(Problem(call.symbol, tensors, call.scalars))
        return made

    def half_for_prompts(problem: Problem) -> float:
        return 1.0 if problem.scalars["max_query_len"] == 1 else 0.5

    sizes = (64, 16, 32, 128, 256)
    size, times_us = tuner.tune_kv_block_size(calls, sizes, half_for_prompts)
    assert list(times_us) == list(sizes)
    for each in sizes:
        decode, prompt = calls(each)
        assert times_us[each] == pytest.approx(tuner.time_us(decode) + tuner.time_us(prompt) / 2)
    assert size == next(each for each in sizes if times_us[each] <= 1.05 * min(times_us.values()))


def test_time_is_that_of_the_best_point(tmp_path: Path) -> None:
    tuner, kernels = scripted(tmp_path, lambda source: a_record())
    ranked = tuner.ranked(MATMUL)
    assert tuner.time_us(MATMUL) == ranked[0].time_us
    assert all(gpu_tuning("scaled_matmul").refusal(MATMUL, each.point, SM_90) is None for each in ranked[:50])
    assert not kernels.batches
