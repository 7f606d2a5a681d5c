"""Ranked points against asking every point of the space, one at a time, whether it is legal and how long it takes."""

from __future__ import annotations

from itertools import pairwise, product

import pytest

from kernels.gpu.launch import Problem, TensorMeta
from kernels.gpu.points import point_key
from kernels.gpu.target import Target
from kernels.registry import gpu_tuning, plan_call, spec, specs
from optimizer.cost.gpu.facts import gpu_facts
from optimizer.tuning.gpu import ranking
from optimizer.tuning.gpu.grid import PointGrid
from optimizer.tuning.gpu.ranking import Ranker
from optimizer.tuning.gpu.representative import representatives
from search_spaces.schema import KernelSpace
from search_spaces.space import device, load_space

SM_90 = Target.of("sm_90", 132)


def ranker(**spaces: dict[str, tuple[int, ...]]) -> Ranker:
    """Of an H100, with the shipped spaces, or with `spaces` by op in place of all of them."""
    own = {op: KernelSpace(constants=constants) for op, constants in spaces.items()}
    return Ranker(gpu_facts(device("h100")), SM_90, own or load_space(kind="gpu").kernels, 1024)


def one(symbol: str, tokens: int = 16, name: str = "") -> Problem:
    return next(each.problem for each in representatives(symbol, (tokens,)) if name in each.name)


@pytest.mark.parametrize(
    ("symbol", "tokens"),
    [
        ("gpu_quant_matmul_int4_asym", 1),
        ("gpu_quant_matmul_int8", 64),
        ("gpu_scaled_matmul_e4m3_block", 64),
        ("gpu_moe_matmul_w16", 16),
        ("gpu_moe_matmul_w8", 16),
        ("gpu_moe_matmul_int4_asym", 16),
        ("gpu_head_matmul", 16),
        ("gpu_paged_attention_e4m3", 16),
        ("gpu_paged_attention_act", 2048),
        ("gpu_mla_attention", 16),
        ("gpu_silu_and_mul", 16),
    ],
)
def test_ranks_as_one_point_at_a_time_would(symbol: str, tokens: int) -> None:
    problem, found = one(symbol, tokens), ranker()
    tuning, model = gpu_tuning(spec(symbol).op), found.model(problem)
    constants = load_space(kind="gpu").kernels[spec(symbol).op].constants
    offered = {
        name: [value for value in constants.get(name, ()) if value in values] or [tuning.default(problem, SM_90)[name]]
        for name, values in tuning.parameters(symbol).items()
    }
    best: dict[tuple[tuple[str, int], ...], float] = {}
    for values in product(*offered.values()):
        point = dict(zip(offered, values, strict=True))
        if tuning.refusal(problem, point, SM_90) is None:
            seen = tuple(sorted((name, value) for name, value in point.items() if name not in model.blind))
            best.setdefault(seen, model.modelled(problem, point).time_us)

    ranked = list(found.ranked(problem))
    times = [each.time_us for each in ranked]
    assert all(after >= before * (1 - 1e-5) for before, after in pairwise(times))
    assert len(ranked) == sum(time != float("inf") for time in best.values())
    assert times[0] == pytest.approx(min(best.values()), rel=1e-5)
    for each in ranked:
        assert tuning.refusal(problem, each.point, SM_90) is None
        seen = tuple(sorted((name, value) for name, value in each.point.items() if name not in model.blind))
        assert each.time_us == pytest.approx(best[seen], rel=1e-6)


def test_what_the_model_is_blind_to_follows_the_default() -> None:
    problem = one("gpu_matmul", 2048, "llama-3.1-8b qkv")
    default = gpu_tuning("scaled_matmul").default(problem, SM_90)
    for order in ((0, 1), (1, 0)):
        best = next(ranker(scaled_matmul={"USE_TMA": order}).ranked(problem))
        assert best.point["USE_TMA"] == default["USE_TMA"]


def test_a_point_is_legal_for_all_calls_that_share_it() -> None:
    few, many = (one("gpu_paged_attention_act", tokens) for tokens in (16, 2048))
    tuning = gpu_tuning("paged_attention")
    shared = next(ranker().ranked(few, [many]))
    assert tuning.refusal(few, shared.point, SM_90) is None
    assert tuning.refusal(many, shared.point, SM_90) is None


def test_a_space_that_is_too_large_is_sampled_alike_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = one("gpu_quant_matmul_int4_asym", 16, "llama-3.1-8b gate_up")
    enumerated = next(ranker().ranked(problem))
    monkeypatch.setattr(ranking, "LARGEST_GRID", 10)
    first, second = list(ranker().ranked(problem)), list(ranker().ranked(problem))
    assert first == second
    assert first[0].time_us <= 1.1 * enumerated.time_us
    assert all(gpu_tuning("quant_matmul").refusal(problem, each.point, SM_90) is None for each in first)


def test_a_value_that_no_kernel_has_is_refused() -> None:
    with pytest.raises(ValueError, match=r"BLOCK_M of quant_matmul .* has 48"):
        ranker(quant_matmul={"BLOCK_M": (16, 48)})
    with pytest.raises(ValueError, match="'WARPS'"):
        ranker(quant_matmul={"WARPS": (4,)})
    with pytest.raises(ValueError, match="got 'quant_matmull'"):
        ranker(quant_matmull={"BLOCK_M": (16,)})


def test_an_index_is_a_rank_in_the_order_of_the_file() -> None:
    offered = KernelSpace(constants={"B": (4, 2), "A": (7, 8, 9)})
    grid = PointGrid.of(offered, {"A": (7, 9), "B": (2, 4), "C": (0, 1)}, {"A": 7, "B": 2, "C": 1})
    points = [grid.point(index) for index in range(len(grid))]
    assert points == [{"B": b, "A": a, "C": 1} for b in (4, 2) for a in (7, 9)]
    assert [grid.index(point) for point in points] == list(range(4))


def test_time_grows_with_work() -> None:
    found = ranker()

    def best(problem: Problem) -> float:
        return next(found.ranked(problem)).time_us

    matmul = [best(one("gpu_matmul", tokens, "llama-3.1-8b qkv")) for tokens in (1, 64, 2048)]
    assert matmul == sorted(matmul)
    act, e4m3 = (best(one(f"gpu_paged_attention_{kv}", 64, "llama")) for kv in ("act", "e4m3"))
    assert e4m3 < act
    wide, narrow = (best(one(symbol, 1, "llama-3.1-8b gate_up")) for symbol in ("gpu_matmul", "gpu_quant_matmul_int4_sym"))
    assert narrow < wide


def test_splitting_pays_only_where_programs_are_few() -> None:
    found = ranker(quant_matmul={"SPLIT_K": (1, 2, 4, 8, 16), "BLOCK_N": (128,)})
    few = next(found.ranked(one("gpu_quant_matmul_int4_sym", 1, "llama-3.1-8b down")))
    many = next(found.ranked(one("gpu_quant_matmul_int4_sym", 2048, "llama-3.1-8b down")))
    assert few.point["SPLIT_K"] > 1
    assert many.point["SPLIT_K"] == 1


def test_a_window_bounds_what_attention_reads() -> None:
    problem = one("gpu_paged_attention_act", 64, "llama")
    windowed = Problem(problem.symbol, problem.tensors, {**problem.scalars, "window": 128})
    assert next(ranker().ranked(windowed)).time_us < 0.5 * next(ranker().ranked(problem)).time_us


def test_every_entry_point_has_calls_that_its_default_serves() -> None:
    for symbol in specs("gpu"):
        names = [each.name for each in representatives(symbol)]
        assert len(names) == len(set(names)) >= 4
        for each in representatives(symbol):
            plan_call(each.problem, SM_90)
            assert point_key(each.problem).startswith(f"{symbol}(")


@pytest.mark.parametrize(("symbol", "of"), [("gpu_quant_matmul_int4_asym", ""), ("gpu_moe_matmul_int4_asym", "gate_up")])
def test_bytes_beside_the_matrices_count(symbol: str, of: str) -> None:
    """A finer grouping has more scales to read."""
    coarse = one(symbol, 1, of or "llama-3.1-8b gate_up")
    fine_tensors = {}
    for name in ("scales", "zeros"):
        *leading, groups, rows = coarse[name].shape
        fine_tensors[name] = TensorMeta.contiguous(coarse[name].dtype, *leading, 2 * groups, rows)
    fine = Problem(coarse.symbol, {**coarse.tensors, **fine_tensors})
    assert next(ranker().ranked(fine)).time_us > next(ranker().ranked(coarse)).time_us


def test_narrower_experts_take_less_time() -> None:
    times = [next(ranker().ranked(one(f"gpu_moe_matmul_{of}", 16, "gate_up"))).time_us for of in ("w16", "w8", "int4_sym")]
    assert times == sorted(times, reverse=True) and times[2] < 0.5 * times[0]
