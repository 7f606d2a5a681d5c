"""A trial that cannot come within the gate any more ends; one that still may is heard whole."""

from __future__ import annotations

import pytest

from artifacts.precision import Scheme
from optimizer.evaluation import Gate, Look
from optimizer.search.accuracy import Judge, trial_score
from tests.optimizer.search.test_kv_cache import judge_of, random_texts

PLAN = {"layers.0.qkv": Scheme.parse("int4-g32-asym")}


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Judge:
    return judge_of(tmp_path_factory.mktemp("hopeless"), key_bias=0.0, texts=random_texts(16))


def test_it_ends_at_a_quarter_and_misses_the_gate(judge: Judge) -> None:
    plan = {**judge.baseline, **PLAN}
    whole = judge.evaluate(plan)["text"].kl
    gate = Gate(max_kl=whole.low / 20)
    found = judge.evaluate_until_hopeless(plan, gate)
    assert found["text"].num_sequences == 4
    score = trial_score(gate, found, {"text": Look(64, 0.95)})
    assert score.violation > 0 and score.is_hopeless
    assert found["text"].kl.low < whole.value < found["text"].kl.high, "what is recorded is still an estimate of the whole"


@pytest.mark.parametrize("part", [0.999, 1.0, 2.0])
def test_it_is_heard_whole_while_it_may_pass(judge: Judge, part: float) -> None:
    plan = {**judge.baseline, **PLAN}
    whole = judge.evaluate(plan)
    gate = Gate(max_kl=whole["text"].kl.high * part, min_top1_agreement=0.0)
    assert judge.evaluate_until_hopeless(plan, gate) == whole


def test_sets_behind_a_hopeless_one_are_left_out(judge: Judge) -> None:
    plan = {**judge.baseline, **PLAN}
    two = Judge(
        judge.workbench,
        judge.baseline,
        {"first": judge.sets["text"], "second": judge.sets["text"]},
        {"first": judge.stores["text"], "second": judge.stores["text"]},
        judge.seed,
    )
    assert list(two.evaluate_until_hopeless(plan, Gate(max_kl=1e-9))) == ["first"]
    assert two.evaluate_until_hopeless(plan, Gate(max_kl=1e9)) == two.evaluate(plan)
