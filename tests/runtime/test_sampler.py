"""The sampler against distributions written out by hand in fp64 and against transformers' logit processors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from runtime.request import Request, SamplingParams
from runtime.sampler import logprobs_of, sample
from runtime.sequence import Sequence

VOCAB = 50


def draws(logits: np.ndarray, num: int, prompt: tuple[int, ...] = (1, 2), **params: object) -> np.ndarray:
    counts = np.zeros(logits.size)
    for seed in range(num):
        request = Request("r", prompt, SamplingParams(seed=seed, **params))  # type: ignore[arg-type]
        counts[sample(logits, Sequence.from_request(request), frozenset())[0]] += 1
    return counts / num


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": 0.7},
        {"temperature": 1.3, "top_k": 5},
        {"top_p": 0.6},
        {"min_p": 0.2},
        {"temperature": 0.8, "top_k": 12, "top_p": 0.7},
        {"repetition_penalty": 1.8, "top_k": 10},
    ],
)
def test_frequencies_follow_transformers_processors(params: dict[str, float]) -> None:
    logits = np.random.default_rng(3).normal(0, 2, VOCAB).astype(np.float32)
    prompt = (int(logits.argmax()), 7)
    warpers = LogitsProcessorList()
    if "repetition_penalty" in params:
        warpers.append(RepetitionPenaltyLogitsProcessor(params["repetition_penalty"]))
    warpers.append(TemperatureLogitsWarper(float(params.get("temperature", 1.0))))
    if "top_k" in params:
        warpers.append(TopKLogitsWarper(int(params["top_k"])))
    if "top_p" in params:
        warpers.append(TopPLogitsWarper(params["top_p"]))
    if "min_p" in params:
        warpers.append(MinPLogitsWarper(params["min_p"]))
    expected = warpers(torch.tensor([prompt]), torch.tensor(logits)[None].double())[0].softmax(-1).numpy()
    num = 4000
    seen = draws(logits, num, prompt, **params)
    assert set(np.flatnonzero(seen)) <= set(np.flatnonzero(expected)), "a truncated token was drawn"
    deviation = np.abs(seen - expected) / np.sqrt(np.maximum(expected * (1 - expected), 1e-4) / num)
    assert deviation.max() < 5


@settings(max_examples=50)
@given(st.integers(0, 2**32), st.floats(0.05, 1.0), st.integers(1, 400))
def test_nucleus_is_the_smallest_set_with_the_mass(seed: int, top_p: float, size: int) -> None:
    logits = np.random.default_rng(seed).normal(0, 1, size).astype(np.float32)
    probabilities = np.exp(logits.astype(np.float64))
    probabilities /= probabilities.sum()
    order = np.argsort(-probabilities, kind="stable")
    allowed = set(order[: int(np.searchsorted(np.cumsum(probabilities[order]), top_p * (1 - 1e-12))) + 1].tolist())
    for draw in range(8):
        request = Request("r", (0,), SamplingParams(seed=draw, top_p=top_p))
        assert sample(logits, Sequence.from_request(request), frozenset())[0] in allowed


def test_logprobs_are_log_softmax() -> None:
    logits = np.random.default_rng(5).normal(0, 3, VOCAB).astype(np.float32)
    expected = torch.tensor(logits).double().log_softmax(0).numpy()
    scored = logprobs_of(logits, 11, 4)
    assert scored.logprob == pytest.approx(expected[11], abs=1e-12)
    assert scored.rank == 1 + int((expected > expected[11]).sum())
    assert [token for token, _ in scored.top] == np.argsort(-expected)[:4].tolist()
    assert [value for _, value in scored.top] == pytest.approx(np.sort(expected)[::-1][:4].tolist())
    assert logprobs_of(logits, 11, 0).top == ()


def test_a_draw_depends_on_seed_and_place_alone() -> None:
    logits = np.random.default_rng(6).normal(0, 1, VOCAB).astype(np.float32)
    request = Request("a", (1, 2, 3), SamplingParams(seed=9))
    again = Request("b", (4, 5, 6), SamplingParams(seed=9))
    tokens = [sample(logits, Sequence.from_request(r), frozenset())[0] for r in (request, again)]
    assert tokens[0] == tokens[1]


def test_min_tokens_forbids_the_end_and_penalties_count_what_was_generated() -> None:
    logits = np.array([5.0, 4.9, 4.8, 0.0], np.float32)
    sequence = Sequence.from_request(Request("r", (3,), SamplingParams(temperature=0, max_tokens=9, min_tokens=2)))
    assert sample(logits, sequence, frozenset({0}))[0] == 1
    sequence.token_ids += [1, 1]
    assert sample(logits, sequence, frozenset({0}))[0] == 0
    penalized = Sequence.from_request(Request("r", (0,), SamplingParams(temperature=0, frequency_penalty=0.08)))
    penalized.token_ids += [0, 0]  # 5.0 - 2 * 0.08 < 4.9
    assert sample(logits, penalized, frozenset())[0] == 1
    biased = Sequence.from_request(Request("r", (0,), SamplingParams(temperature=0, logit_bias={3: 50.0})))
    assert sample(logits, biased, frozenset())[0] == 3
    assert logits[3] == 0.0, "the row belongs to the runner and must not change"


@pytest.mark.parametrize(
    ("field", "value"),
    [("temperature", -1.0), ("top_p", 0.0), ("top_k", -1), ("min_p", 1.5), ("repetition_penalty", 0.0), ("logprobs", 21)],
)
def test_values_out_of_range_are_refused(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{field} must be"):
        SamplingParams(**{field: value})  # type: ignore[arg-type]
