"""The precision search on a problem whose optimum is known, and killed in the middle."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from artifacts.precision import KvDtype, Plan, Scheme
from optimizer.records.ledger import Ledger
from optimizer.records.progress import Reporter
from optimizer.search.bands import Band, plan_of
from optimizer.search.precision import PrecisionSearch, Trial, TrialScore, pareto_front
from optimizer.search.warm_start import KV_CACHE, kv_dtype_of, uniform_choices
from tests.optimizer.conftest import num_trials
from tests.waiting import wait_for

SCHEMES = tuple(Scheme.parse(name) for name in ("fp32", "int8", "int4-g32-asym", "int4-g64-sym"))
COST_MS = {"fp32": 4.0, "int8": 2.0, "int4-g32-asym": 1.2, "int4-g64-sym": 1.0}
LOSS = {"fp32": 0.0, "int8": 0.001, "int4-g32-asym": 0.01, "int4-g64-sym": 0.05}
BANDS = tuple(Band(f"band{i}", (f"group{i}",), SCHEMES) for i in range(4))
MAX_KL = 0.1


def latency_ms(plan: Plan) -> float:
    return sum(COST_MS[scheme.name] for scheme in plan.values())


def score(plan: Plan) -> TrialScore:
    kl = sum(LOSS[scheme.name] * (1 + 3 * i) for i, scheme in enumerate(plan.values()))
    return TrialScore(kl, kl / MAX_KL - 1)


def search_in(folder: Path, seed: int = 0) -> PrecisionSearch:
    return PrecisionSearch(Ledger(f"sqlite:///{folder}/study.db", "toy"), BANDS, latency_ms, score, seed)


def fastest_within_the_gate() -> float:
    plans = (
        plan_of(BANDS, dict(zip((b.name for b in BANDS), names, strict=True)))
        for names in itertools.product(COST_MS, repeat=len(BANDS))
    )
    return min(latency_ms(plan) for plan in plans if score(plan).violation <= 0)


def test_a_plan_without_a_score_is_a_failed_trial_and_the_search_goes_on(tmp_path: Path) -> None:
    def mostly(plan: Plan) -> TrialScore:
        if plan["group0"].name == "int4-g32-asym":
            return TrialScore.refused("candidate logits must be finite, got NaN or infinity")
        return score(plan)

    search = PrecisionSearch(Ledger(f"sqlite:///{tmp_path}/study.db", "toy"), BANDS, latency_ms, mostly, 0)
    trials = search.run(uniform_choices(BANDS), 40, None, Reporter())
    failed = [trial for trial in trials if trial.failure]
    assert len(trials) == 40 and failed and not any(trial.is_feasible for trial in failed)
    assert all(trial.choice["band0"] == "int4-g32-asym" and "must be finite" in trial.failure for trial in failed)
    assert not set(trial.number for trial in failed) & set(trial.number for trial in pareto_front(trials))


def test_it_finds_the_optimum_that_enumeration_finds(tmp_path: Path) -> None:
    trials = search_in(tmp_path).run(uniform_choices(BANDS), 60, None, Reporter())
    assert len(trials) == 60
    front = pareto_front(trials)
    assert front[0].latency_ms == pytest.approx(fastest_within_the_gate(), rel=0.05)
    assert [t.latency_ms for t in front] == sorted(t.latency_ms for t in front)
    assert all(later.kl < earlier.kl for earlier, later in itertools.pairwise(front))
    assert all(t.is_feasible for t in front)


def test_a_search_that_stopped_goes_on_as_if_it_had_not(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole = search_in(tmp_path / "whole").run(uniform_choices(BANDS), 20, None, Reporter())
    search_in(tmp_path / "parts").run(uniform_choices(BANDS), 7, None, Reporter())
    parts = search_in(tmp_path / "parts").run(uniform_choices(BANDS), 20, None, Reporter())
    assert parts == whole


SLOW_SEARCH = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import test_precision as toy
from optimizer.records.progress import Reporter
def slow(plan):
    time.sleep(0.05)
    return toy.score(plan)
search = toy.search_in(Path(sys.argv[1]))
search._score = slow
search.run(toy.uniform_choices(toy.BANDS), 40, None, Reporter())
"""


def start_slow_search(folder: Path) -> subprocess.Popen[bytes]:
    arguments = [sys.executable, "-c", SLOW_SEARCH, str(folder), str(Path(__file__).parent)]
    process = subprocess.Popen(arguments, env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)})
    try:
        wait_for(lambda: num_trials(folder / "study.db") >= 8)
    except AssertionError:
        process.kill()
        raise
    return process


def test_kill_9_loses_at_most_the_running_trial(tmp_path: Path) -> None:
    process = start_slow_search(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = search_in(tmp_path).trials()
    assert 8 <= len(before) < 40
    after = search_in(tmp_path).run(uniform_choices(BANDS), 40, None, Reporter())
    assert len(after) == 40
    assert after[: len(before)] == before


def test_ctrl_c_ends_the_search_with_what_there_is(tmp_path: Path) -> None:
    process = start_slow_search(tmp_path)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    assert 8 <= len(search_in(tmp_path).trials()) < 40


def test_the_front_leaves_out_what_breaks_the_gate() -> None:
    trials = [Trial(0, {}, 1.0, 0.5, 0.2), Trial(1, {}, 2.0, 0.1, -0.1), Trial(2, {}, 3.0, 0.1, -0.1)]
    assert pareto_front(trials) == [trials[1]]


KV_MS = {"fp32": 2.0, "fp16": 1.0, "bf16": 0.9}
KV_LOSS = {"fp32": 0.0, "fp16": 0.001, "bf16": 0.2}


def test_the_kv_cache_is_a_variable_beside_the_bands(tmp_path: Path) -> None:
    """bf16 is fastest and breaks the gate whatever the weights; fp16 leaves nearly as much for weights as fp32."""

    def latency_over(plan: Plan, kv_dtype: KvDtype) -> float:
        return latency_ms(plan) + KV_MS[kv_dtype]

    def score_over(plan: Plan, kv_dtype: KvDtype) -> TrialScore:
        kl = score(plan).kl + KV_LOSS[kv_dtype]
        return TrialScore(kl, kl / MAX_KL - 1)

    search = PrecisionSearch(
        Ledger(f"sqlite:///{tmp_path}/study.db", "toy"), BANDS, latency_over, score_over, 0, ["bf16", "fp16", "fp32"]
    )
    trials = search.run([plan | {KV_CACHE: "bf16"} for plan in uniform_choices(BANDS)], 60, None, Reporter())
    front = pareto_front(trials)
    assert {kv_dtype_of(trial.choice) for trial in trials} == {"bf16", "fp16", "fp32"}
    assert kv_dtype_of(front[0].choice) == "fp16"
    assert front[0].latency_ms == pytest.approx(fastest_within_the_gate() + KV_MS["fp16"], rel=0.06)
