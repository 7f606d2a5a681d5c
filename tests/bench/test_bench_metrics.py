"""The definitions, by hand on small cases, and what must hold of any."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.bench.client import OpenLoop
from runtime.bench.metrics import Answer, Targets, summarize

FIRST = Answer(sent_s=10.0, text_times_s=(10.5, 10.6, 10.9), num_prompt_tokens=7, num_output_tokens=5)
SECOND = Answer(sent_s=11.0, text_times_s=(11.1, 11.2), num_prompt_tokens=3, num_output_tokens=2)
FAILED = Answer(sent_s=12.0, text_times_s=(), num_prompt_tokens=0, num_output_tokens=0, error="refused")


def test_definitions() -> None:
    assert FIRST.ttft_ms == pytest.approx(500)
    assert FIRST.itls_ms == pytest.approx((100, 300)), "the first token is not part of it"
    assert FIRST.e2e_ms == pytest.approx(900)
    assert FIRST.tpot_ms == pytest.approx((900 - 500) / 4), "tokens as the server counts them, not chunks"


def test_summary() -> None:
    summary = summarize([FIRST, SECOND, FAILED], 2.0, Targets(ttft_ms=200, itl_ms=150))
    assert (summary.num_completed, summary.num_errors) == (2, 1)
    assert (summary.num_prompt_tokens, summary.num_output_tokens) == (10, 7)
    assert summary.requests_per_s == 1.0
    assert summary.output_tokens_per_s == 3.5
    assert summary.goodput_per_s == 0.5, "the first is too late"
    assert summary.itl_ms is not None and summary.itl_ms.p50 == pytest.approx(100)
    assert summary.ttft_ms is not None and summary.ttft_ms.p90 == pytest.approx(np.percentile([500, 100], 90))


def test_nothing_completed() -> None:
    summary = summarize([FAILED], 1.0)
    assert summary.ttft_ms is None and summary.goodput_per_s == 0


def test_one_token_has_no_tpot_and_meets_any_itl_target() -> None:
    answer = Answer(0.0, (0.1,), 1, 1)
    assert answer.tpot_ms is None and answer.itls_ms == ()
    assert Targets(itl_ms=0.001).met_by(answer)


@given(st.lists(st.floats(0.001, 5), min_size=2, max_size=30), st.floats(0.001, 5))
def test_gaps_add_up_to_the_whole(gaps: list[float], ttft: float) -> None:
    answer = Answer(0.0, tuple(np.cumsum([ttft, *gaps]).tolist()), 1, len(gaps) + 1)
    assert answer.ttft_ms + sum(answer.itls_ms) == pytest.approx(answer.e2e_ms)
    assert answer.tpot_ms == pytest.approx(np.mean(answer.itls_ms))


def test_poisson_arrivals_are_seeded_and_at_their_rate() -> None:
    arrivals = OpenLoop(rate_per_s=50, seed=3).arrivals_s(4000)
    assert arrivals == OpenLoop(rate_per_s=50, seed=3).arrivals_s(4000) != OpenLoop(50, seed=4).arrivals_s(4000)
    gaps = np.diff(arrivals)
    assert arrivals[0] == 0 and gaps.min() >= 0
    assert gaps.mean() == pytest.approx(1 / 50, rel=0.06)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.1), "exponential: as spread as it is long"
