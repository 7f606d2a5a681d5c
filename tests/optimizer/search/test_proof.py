from __future__ import annotations

import pytest

from optimizer.evaluation import Estimate, Evaluation, Gate
from optimizer.search.precision import Trial
from optimizer.search.proof import NothingPasses, finalists, prove

GATE = Gate(max_kl=0.1)
FAST, MIDDLE, EXACT = Trial(0, {}, 1.0, 0.09, -0.1), Trial(1, {}, 2.0, 0.05, -0.5), Trial(2, {}, 3.0, 0.0, -1.0)
DOMINATED, BROKEN = Trial(3, {}, 3.5, 0.06, -0.4), Trial(4, {}, 0.5, 0.9, 8.0)
TRIALS = [FAST, MIDDLE, EXACT, DOMINATED, BROKEN]
SIZES = {0: 30.0, 1: 20.0, 2: 40.0, 3: 10.0, 4: 1.0}


def size_bytes(trial: Trial) -> float:
    return SIZES[trial.number]


def evaluation(kl: float) -> Evaluation:
    one = Estimate(1.0, 1.0, 1.0)
    return Evaluation(4, 100, Estimate(kl, kl, kl), one, one, one, Estimate(0.0, 0.0, 0.0))


def test_rules() -> None:
    assert finalists(TRIALS, "fastest", size_bytes) == [FAST, MIDDLE, EXACT]
    assert finalists(TRIALS, "most_accurate", size_bytes) == [EXACT, MIDDLE, FAST]
    assert finalists(TRIALS, "smallest", size_bytes) == [DOMINATED, MIDDLE, FAST, EXACT]


def test_where_the_winner_fails_on_unseen_text_the_next_one_is_taken() -> None:
    asked: list[int] = []

    def evaluate(trial: Trial) -> dict[str, Evaluation]:
        asked.append(trial.number)
        return {"prose": evaluation(0.01), "code": evaluation(0.2 if trial is FAST else 0.05)}

    proven = prove([FAST, MIDDLE, EXACT], GATE, evaluate)
    assert proven.trial is MIDDLE
    assert set(proven.verdicts) == {"prose", "code"} and all(verdict.passed for verdict in proven.verdicts.values())
    assert asked == [0, 1], "the search for a winner ends with it"


def test_where_none_passes_the_closest_says_by_how_much_it_missed() -> None:
    kls = {0: 0.3, 1: 0.15, 2: 0.2}
    with pytest.raises(NothingPasses, match="of 3 finalists, trial 1 came closest") as caught:
        prove([FAST, MIDDLE, EXACT], GATE, lambda trial: {"prose": evaluation(kls[trial.number])})
    assert "prose: kl 0.15" in str(caught.value) and "missed by 0.05" in str(caught.value)
