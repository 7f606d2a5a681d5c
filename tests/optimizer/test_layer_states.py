"""Plans over the same texts, one after another: the same logits to the bit as from a fresh step, from fewer calls."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from artifacts.precision import Plan, Scheme
from kernels.cpu.library import CompiledProgram, Library
from optimizer.importers import open_source
from optimizer.measure.layer_states import LayerStates
from optimizer.measure.workbench import CpuWorkbench
from optimizer.weights.quantized_store import QuantizedStore

TEXTS = [[5, 80, 3, 200, 17, 9, 11], [1, 2, 3], [250, 4, 4, 4, 90]]
SCHEMES = [Scheme.parse(name) for name in ("fp32", "int8-a8", "int4-g32-asym")]


@pytest.fixture(scope="module")
def bench(kernels_path: Path, tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> CpuWorkbench:
    folder = tmp_path_factory.mktemp("bench")
    source = open_source(tiny_llama)
    library = Library(kernels_path)
    return CpuWorkbench(source.architecture, QuantizedStore(source, folder / "weights"), "fp32", 16, library, 2)


@pytest.fixture
def num_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of each part of a program that is run."""
    found: list[int] = []
    run_part = CompiledProgram.run_part

    def counted(self: CompiledProgram, begin: int, end: int) -> None:
        found.append(end - begin)
        run_part(self, begin, end)

    monkeypatch.setattr(CompiledProgram, "run_part", counted)
    return found


def fresh(bench: CpuWorkbench, plan: Plan, texts: list[list[int]] = TEXTS) -> list[np.ndarray]:
    return list(replace(bench, states=LayerStates()).score_each(plan, texts))


def same(ours: list[np.ndarray], theirs: list[np.ndarray]) -> bool:
    return len(ours) == len(theirs) and all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_plans_in_any_order_score_as_on_their_own(bench: CpuWorkbench) -> None:
    groups = list(bench.architecture.linear_shapes())
    plan: Plan = dict.fromkeys(groups, SCHEMES[0])
    draw = random.Random(0)
    for _ in range(25):
        plan = plan | {draw.choice(groups): draw.choice(SCHEMES)}
        assert same(bench.score_at_once(plan, TEXTS), fresh(bench, plan)), plan


def test_only_what_comes_behind_a_change_is_computed(bench: CpuWorkbench, num_calls: list[int]) -> None:
    plan: Plan = dict.fromkeys(bench.architecture.linear_shapes(), SCHEMES[0])

    def calls_of(changed: Plan) -> int:
        num_calls.clear()
        bench.score_at_once(plan | changed, TEXTS)
        return sum(num_calls)

    whole = calls_of({"embed": SCHEMES[2]})
    assert calls_of({}) == calls_of({"embed": SCHEMES[2]}) == whole, "every layer depends on the embedding"
    calls_of({})
    last = calls_of({"layers.1.down": SCHEMES[2]})
    assert last < whole / 2 + 3
    assert calls_of({"layers.1.o": SCHEMES[2]}) == last
    assert calls_of({"layers.0.o": SCHEMES[2]}) == whole
    assert calls_of({"layers.1.o": SCHEMES[2]}) == whole, "the state behind the changed layer is no longer there"


@pytest.mark.parametrize("change", ["texts", "store", "kv_dtype"])
def test_on_another_subject_nothing_is_known(change: str, bench: CpuWorkbench, tmp_path: Path) -> None:
    plan: Plan = dict.fromkeys(bench.architecture.linear_shapes(), SCHEMES[1])
    bench.score_at_once(plan, TEXTS)
    texts = [[*TEXTS[0], 8], *TEXTS[1:]] if change == "texts" else TEXTS
    other = bench
    if change == "store":
        other = bench.on(QuantizedStore(bench.store.source, tmp_path))
    elif change == "kv_dtype":
        other = replace(bench, kv_dtype="int8")
    assert same(other.score_at_once(plan, texts), fresh(other, plan, texts))
