"""The seam of logits processors: who applies when, in which order, and what they see through preemptions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from kernels.cpu.library import Library
from runtime.draws import is_plain
from runtime.engine_core import EngineCore
from runtime.logits.processor import LogitsProcessor, Row
from runtime.model_runner import ProgramRunner
from runtime.reasoning import Reasoning, ReasoningProgress
from runtime.request import Request, RequestError, SamplingParams
from runtime.sampler import sample
from runtime.sequence import Sequence
from tests.runtime.conftest import Tiny, limits
from tests.runtime.generating import GREEDY, finish, generate, prompt_of, token_ids

BEGIN, END, EOS = 7, 8, 9
MARKS = Reasoning((BEGIN,), (END,), b"</think>", lambda token: b"</think>" if token == END else b"x")


def sequence_of(**options: object) -> Sequence:
    return Sequence.from_request(Request("r", (1, 2), SamplingParams(**options)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, []),
        ({"temperature": 0, "top_k": 3, "top_p": 0.5, "min_p": 0.1, "logprobs": 3}, []),
        ({"logit_bias": {1: 2.0}}, ["LogitBias"]),
        ({"presence_penalty": 0.1}, ["Penalties"]),
        ({"repetition_penalty": 1.1, "min_tokens": 1, "logit_bias": {1: 2.0}}, ["LogitBias", "Penalties", "MinTokens"]),
        ({"reasoning_budget": 3}, []),
    ],
)
def test_a_sequence_has_the_processors_that_its_request_asks_for(options: dict[str, object], names: list[str]) -> None:
    assert [type(processor).__name__ for processor in sequence_of(**options).processors] == names


def test_plain_is_what_no_processor_changes_and_nobody_scores() -> None:
    assert is_plain(sequence_of(temperature=0.5, top_p=0.9))
    assert not is_plain(sequence_of(logprobs=0)) and not is_plain(sequence_of(prompt_logprobs=True))
    waiting = sequence_of(min_tokens=2)
    assert not is_plain(waiting)
    waiting.token_ids += [3, 3]
    assert is_plain(waiting), "min_tokens is over"


def test_min_tokens_gives_way_where_only_the_end_is_left() -> None:
    logits = np.full(12, -np.inf, np.float32)
    logits[EOS] = 1.0
    assert sample(logits, sequence_of(min_tokens=4), frozenset({EOS}))[0] == EOS


@dataclass
class Only:
    """Allows one token after the other, by how many there are; keeps what it was asked."""

    tokens: tuple[int, ...]
    prepared: list[int] = field(default_factory=list)
    called: list[int] = field(default_factory=list)

    def processor(self, reasoning: Reasoning | None) -> LogitsProcessor:
        return self

    def applies(self, sequence: Sequence) -> bool:
        return True

    def prepare(self, sequence: Sequence) -> None:
        self.prepared.append(sequence.num_generated_tokens)

    def __call__(self, logits: Row, sequence: Sequence, end_token_ids: frozenset[int]) -> None:
        self.called.append(sequence.num_generated_tokens)
        kept = logits[self.tokens[sequence.num_generated_tokens]]
        logits[:] = -np.inf
        logits[self.tokens[sequence.num_generated_tokens]] = kept


@pytest.fixture(scope="module")
def runner(tiny: Callable[[str], Tiny], library: Library) -> ProgramRunner:
    return tiny("llama").runner(library, "fp32", limits(max_model_len=96))


def test_a_constraint_is_prepared_before_each_token_and_ends_what_ignores_ends(runner: ProgramRunner) -> None:
    constraint = Only((5, 6, 4, EOS))
    params = SamplingParams(max_tokens=20, min_tokens=20, ignore_eos=True, seed=1)
    outputs = finish(EngineCore(runner, [EOS]), {0: [Request("r", prompt_of(0, 70, seed=1), params, constraint)]})["r"]
    assert token_ids(outputs) == [5, 6, 4, EOS]
    assert outputs[-1].finish_reason == "stop"
    assert constraint.prepared == constraint.called == [0, 1, 2, 3], "chunks of a prompt sample nothing"


def test_a_constraint_survives_preemption(tiny: Callable[[str], Tiny], library: Library) -> None:
    small = tiny("llama").runner(library, "fp32", limits(num_kv_blocks=6, kv_block_size=16, max_model_len=96))
    engine = EngineCore(small, [])
    wanted = [tuple(np.random.default_rng(seed).integers(10, 200, 40).tolist()) for seed in range(3)]
    params = replace(GREEDY, max_tokens=40)
    requests = [Request(f"{i}", prompt_of(0, 20, seed=i), params, Only(tokens)) for i, tokens in enumerate(wanted)]
    outputs = finish(engine, {0: requests})
    assert engine.stats().num_preemptions > 0
    assert [tuple(token_ids(outputs[f"{i}"])) for i in range(3)] == wanted


def test_a_processor_that_fails_ends_its_own_request(runner: ProgramRunner) -> None:
    engine = EngineCore(runner, [])
    requests = [Request("a", (1, 2), GREEDY, Only((5,))), Request("b", (1, 2), GREEDY)]
    outputs = finish(engine, {0: requests})
    assert isinstance(outputs["a"][-1].error, IndexError)
    assert token_ids(outputs["b"]) == token_ids(generate(EngineCore(runner, []), (1, 2)))


def phases(reasoning: Reasoning, tokens: list[int]) -> list[str]:
    progress = ReasoningProgress(reasoning)
    seen = []
    for count in range(len(tokens) + 1):
        progress.follow([0, 0, *tokens[:count]], 2)
        seen.append(progress.phase)
    return seen


def test_reasoning_is_what_begins_with_its_mark_or_in_the_prompt() -> None:
    assert phases(MARKS, [BEGIN, 1, END, 2]) == ["undecided", "reasoning", "reasoning", "answer", "answer"]
    assert phases(MARKS, [1, BEGIN, 1]) == ["undecided", "answer", "answer", "answer"]
    assert phases(replace(MARKS, is_open=True), [1, END]) == ["reasoning", "reasoning", "answer"]
    long = replace(MARKS, begin_token_ids=(BEGIN, 1))
    assert phases(long, [BEGIN, 1, 3]) == ["undecided", "undecided", "reasoning", "reasoning"]
    assert phases(long, [BEGIN, 3]) == ["undecided", "undecided", "answer"]


def test_the_end_of_reasoning_is_found_in_the_text_whatever_tokens_write_it() -> None:
    pieces = {1: b"so</th", 2: b"ink", 3: b">\n", 4: b"</thing>"}
    marks = replace(MARKS, is_open=True, token_bytes=lambda token: pieces[token])
    assert phases(marks, [4, 1, 2, 3])[-2:] == ["reasoning", "answer"]


@pytest.mark.parametrize("budget", [0, 1, 3])
def test_a_budget_ends_reasoning(budget: int) -> None:
    marks = replace(MARKS, is_open=True, end_token_ids=(4, END))
    request = Request("r", (1, 2), SamplingParams(reasoning_budget=budget, temperature=0), reasoning=marks)
    sequence = Sequence.from_request(request)
    logits = np.zeros(12, np.float32)
    logits[3] = 5.0  # the model would think for ever
    for _ in range(budget + 4):
        sequence.token_ids.append(sample(logits, sequence, frozenset())[0])
    assert sequence.token_ids[2:] == [3] * budget + [4, END, 3, 3]


def test_a_budget_is_no_less_than_nothing() -> None:
    with pytest.raises(RequestError, match="reasoning_budget must be at least 0, got -1"):
        SamplingParams(reasoning_budget=-1)
