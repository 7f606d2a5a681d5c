from __future__ import annotations

from dataclasses import replace

import pytest

from optimizer.evaluation import Gate, Look, SequenceScore, TextComparison
from optimizer.search.precision import Trial
from optimizer.search.proof import NothingPasses, finalists, prove

GATE = Gate(max_kl=0.1)
FAST, MIDDLE, EXACT = Trial(0, {}, 1.0, 0.09, -0.1), Trial(1, {}, 2.0, 0.05, -0.5), Trial(2, {}, 3.0, 0.0, -1.0)
DOMINATED, BROKEN = Trial(3, {}, 3.5, 0.06, -0.4), Trial(4, {}, 0.5, 0.9, 8.0, is_hopeless=True)
TRIALS = [FAST, MIDDLE, EXACT, DOMINATED, BROKEN]
SIZES = {0: 30.0, 1: 20.0, 2: 40.0, 3: 10.0, 4: 1.0}


def size_bytes(trial: Trial) -> float:
    return SIZES[trial.number]


def text(kl: float) -> TextComparison:
    """Sequences that all have this KL: its interval has room only for one that was not heard, a quarter more."""
    score = SequenceScore(10, 10 * kl, 9, 20.0, 20.0)
    return TextComparison((score,) * 4, (Look(4, 0.95),), GATE, 0)


def test_rules() -> None:
    assert finalists(TRIALS, "fastest", size_bytes) == [FAST, MIDDLE, EXACT]
    assert finalists(TRIALS, "most_accurate", size_bytes) == [EXACT, MIDDLE, FAST]
    assert finalists(TRIALS, "smallest", size_bytes) == [DOMINATED, MIDDLE, FAST, EXACT]


@pytest.mark.parametrize("rule", ["fastest", "most_accurate", "smallest"])
def test_trials_that_the_search_cannot_exclude_come_last_and_likely_ones_first(rule: str) -> None:
    unlikely, likely = replace(BROKEN, number=5, violation=0.4, is_hopeless=False), replace(FAST, number=6, violation=0.1)
    found = finalists([*TRIALS, unlikely, likely], rule, lambda trial: float(trial.number))  # type: ignore[arg-type]
    assert found[-2:] == [likely, unlikely] and BROKEN not in found
    assert finalists([BROKEN, unlikely], rule, lambda trial: 0.0) == [unlikely]  # type: ignore[arg-type]
    many = [replace(unlikely, number=10 + i) for i in range(9)]
    assert len(finalists(many, rule, lambda trial: 0.0)) == 3  # type: ignore[arg-type]


def test_where_the_winner_fails_on_unseen_text_the_next_one_is_taken() -> None:
    asked: list[int] = []

    def on_texts(trial: Trial) -> dict[str, TextComparison]:
        asked.append(trial.number)
        return {"prose": text(0.01), "code": text(0.2 if trial is FAST else 0.05)}

    proven = prove([FAST, MIDDLE, EXACT], on_texts)
    assert proven.trial is MIDDLE
    assert set(proven.verdicts) == {"prose", "code"} and all(verdict.passed for verdict in proven.verdicts.values())
    assert asked == [0, 1], "the search for a winner ends with it"


def test_where_none_passes_the_closest_says_by_how_much_it_missed() -> None:
    kls = {0: 0.3, 1: 0.15, 2: 0.2}
    with pytest.raises(NothingPasses, match="of 3 finalists, trial 1 came closest") as caught:
        prove([FAST, MIDDLE, EXACT], lambda trial: {"prose": text(kls[trial.number])})
    assert "prose: kl 0.15" in str(caught.value) and "missed by 0.087" in str(caught.value)
