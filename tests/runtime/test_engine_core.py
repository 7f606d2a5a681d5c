"""The engine over real kernels: what it generates, scores and counts, and what ends or refuses a request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from kernels.cpu.library import Library
from runtime.engine_core import EngineCore, QueueFull
from runtime.model_runner import ProgramRunner
from runtime.request import Request, SamplingParams
from runtime.scoring import score
from tests.runtime.conftest import Tiny, limits
from tests.runtime.generating import GREEDY, PREFIX, finish, generate, prompt_of, results, token_ids


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen3"])
def test_greedy_tokens_are_transformers(tiny: Callable[[str], Tiny], library: Library, name: str) -> None:
    model = tiny(name)
    prompts = [prompt_of(shared, own, seed=own) for shared, own in ((0, 3), (20, 7), (40, 1), (0, 30))]
    engine = EngineCore(model.runner(library, "fp32", limits()), [])
    params = replace(GREEDY, max_tokens=30)
    outputs = finish(engine, {i: [Request(str(i), prompt, params)] for i, prompt in enumerate(prompts)})
    for i, prompt in enumerate(prompts):
        options = {"max_new_tokens": 30, "do_sample": False, "eos_token_id": None}
        theirs = model.model.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), **options)
        assert token_ids(outputs[str(i)]) == theirs[0, len(prompt) :].tolist()
        assert len(set(token_ids(outputs[str(i)]))) > 3, "a model that repeats itself would prove little"


@pytest.fixture(scope="module")
def runner(tiny: Callable[[str], Tiny], library: Library) -> ProgramRunner:
    """One for all tests below; each gives it an engine of its own."""
    return tiny("llama").runner(library, "fp32", limits(max_model_len=96))


PROMPT = prompt_of(0, 20, seed=8)


@pytest.fixture(scope="module")
def tokens(runner: ProgramRunner) -> list[int]:
    """What the model says after PROMPT, greedily."""
    said = token_ids(generate(EngineCore(runner, []), PROMPT))
    assert said[3] not in said[:3]
    return said


def test_max_tokens_ends_a_request(runner: ProgramRunner) -> None:
    outputs = generate(EngineCore(runner, []), PROMPT)
    assert [output.finish_reason for output in outputs] == [None] * 7 + ["length"]


def test_stop_tokens_end_a_request_and_are_its_last(runner: ProgramRunner, tokens: list[int]) -> None:
    outputs = generate(EngineCore(runner, []), PROMPT, replace(GREEDY, stop_token_ids=frozenset({tokens[3], 202})))
    assert token_ids(outputs) == tokens[:4]
    assert outputs[-1].finish_reason == "stop"


def test_eos_ends_a_request_unless_ignored(runner: ProgramRunner, tokens: list[int]) -> None:
    engine = EngineCore(runner, [tokens[3]])
    outputs = generate(engine, PROMPT)
    assert token_ids(outputs) == tokens[:4]
    assert outputs[-1].finish_reason == "stop"
    ignoring = generate(engine, PROMPT, replace(GREEDY, ignore_eos=True))
    assert token_ids(ignoring) == tokens
    assert ignoring[-1].finish_reason == "length"


def test_ignoring_eos_leaves_stop_tokens_in_force(runner: ProgramRunner, tokens: list[int]) -> None:
    params = replace(GREEDY, ignore_eos=True, stop_token_ids=frozenset({tokens[3]}))
    assert token_ids(generate(EngineCore(runner, [tokens[3]]), PROMPT, params)) == tokens[:4]


def test_no_eos_before_min_tokens(runner: ProgramRunner, tokens: list[int]) -> None:
    outputs = generate(EngineCore(runner, [tokens[3]]), PROMPT, replace(GREEDY, min_tokens=6))
    assert token_ids(outputs)[:3] == tokens[:3]
    assert tokens[3] not in token_ids(outputs)[:6]


def test_the_context_ends_a_request(runner: ProgramRunner) -> None:
    prompt = prompt_of(0, 90, seed=3)
    outputs = generate(EngineCore(runner, []), prompt, replace(GREEDY, max_tokens=50))
    assert len(outputs) == 6
    assert outputs[-1].finish_reason == "length"


def log_softmax(logits: np.ndarray[tuple[int, int], np.dtype[np.float32]]) -> torch.Tensor:
    return torch.from_numpy(logits).double().log_softmax(dim=1)


@pytest.mark.parametrize("num_tokens", [1, 33, 96])
def test_a_scored_prompt_has_the_log_softmax_of_its_logits(runner: ProgramRunner, num_tokens: int) -> None:
    prompt = prompt_of(0, num_tokens, seed=5)  # 96 fills the context: nothing is generated, so it may
    engine = EngineCore(runner, [])
    generate(engine, prompt[:80])  # a prefix that is cached now, and must not cut the scores
    (output,) = generate(engine, prompt, SamplingParams(max_tokens=0, prompt_logprobs=True, logprobs=3))
    assert output.token_id is None
    assert output.finish_reason == "length"
    assert output.num_cached_tokens == 0
    assert output.prompt_logprobs is not None
    expected = log_softmax(score(runner, prompt))
    assert [scored.token_id for scored in output.prompt_logprobs] == list(prompt[1:])
    for scored, row in zip(output.prompt_logprobs, expected, strict=False):
        assert scored.logprob == pytest.approx(row[scored.token_id].item(), abs=1e-9)
        assert scored.rank == int((row > row[scored.token_id]).sum()) + 1
        top = row.topk(3)
        assert [token for token, _ in scored.top] == top.indices.tolist()
        assert [logprob for _, logprob in scored.top] == pytest.approx(top.values.tolist(), abs=1e-9)


def test_generated_tokens_have_the_log_softmax_of_their_logits(runner: ProgramRunner) -> None:
    outputs = generate(EngineCore(runner, []), PROMPT)
    expected = log_softmax(score(runner, [*PROMPT, *token_ids(outputs)]))[len(PROMPT) - 1 :]
    for output, row in zip(outputs, expected, strict=False):
        assert output.logprobs is not None
        assert output.logprobs.token_id == output.token_id == int(row.argmax())
        assert output.logprobs.logprob == pytest.approx(float(row.max()), abs=1e-9)
        assert output.logprobs.rank == 1


def test_tokens_of_a_cached_prefix_are_counted_and_not_computed(runner: ProgramRunner) -> None:
    engine = EngineCore(runner, [])
    first, second = (generate(engine, prompt_of(40, 9, seed=1)) for _ in range(2))
    third = generate(engine, prompt_of(40, 5, seed=2))
    assert [outputs[0].num_cached_tokens for outputs in (first, second, third)] == [0, 48, 32]
    assert token_ids(first) == token_ids(second)
    assert engine.stats().num_cached_tokens == 80


def test_a_prompt_of_whole_blocks_computes_its_last_token(runner: ProgramRunner) -> None:
    engine = EngineCore(runner, [])
    first, second = (generate(engine, PREFIX[:48]) for _ in range(2))
    assert second[0].num_cached_tokens == 32
    assert results(first) == results(second)


def test_work_found_again_after_a_preemption_is_no_cached_prompt(tiny: Callable[[str], Tiny], library: Library) -> None:
    """The younger of two distinct prompts is preempted in the middle of its prompt, and later finds its own blocks."""
    room = limits(num_kv_blocks=6, max_num_seqs=2, max_num_batched_tokens=2, max_model_len=96)
    engine = EngineCore(tiny("llama").runner(library, "fp32", room), [])
    old = Request("old", prompt_of(0, 16, seed=1), replace(GREEDY, max_tokens=40))
    young = Request("young", prompt_of(0, 64, seed=2), GREEDY)
    outputs = finish(engine, {0: [old], 1: [young]})
    assert engine.stats().num_preemptions > 0
    assert outputs["young"][0].num_cached_tokens == 0
    assert engine.stats().num_cached_tokens == 0


def test_abort_frees_blocks_at_once(runner: ProgramRunner) -> None:
    engine = EngineCore(runner, [])
    for name in ("running", "other", "waiting"):
        engine.add(Request(name, prompt_of(0, 20, seed=len(name))))
        if name != "waiting":
            engine.step()
    running, waiting = engine.stats().num_running, engine.stats().num_waiting
    assert (running, waiting) == (2, 1)
    free = engine.stats().num_free_blocks
    engine.abort("running")
    assert engine.stats().num_free_blocks == free + 2
    engine.abort("waiting")
    assert (engine.stats().num_running, engine.stats().num_waiting) == (1, 0)
    engine.abort("running")  # no longer open: ignored
    assert {output.request_id for output in engine.step()} == {"other"}
    engine.abort("other")
    assert not engine.has_work()
    assert engine.stats().num_free_blocks == engine.stats().num_blocks
    assert engine.step() == []


def test_blocks_of_an_aborted_request_serve_the_next_with_the_same_prompt(runner: ProgramRunner, tokens: list[int]) -> None:
    engine = EngineCore(runner, [])
    engine.add(Request("r", PROMPT, GREEDY))
    engine.step()
    engine.abort("r")
    outputs = generate(engine, PROMPT)
    assert outputs[0].num_cached_tokens == 16
    assert token_ids(outputs) == tokens


def test_the_queue_has_an_end(runner: ProgramRunner) -> None:
    engine = EngineCore(runner, [], max_num_waiting=2)
    engine.add(Request("a", PROMPT))
    engine.add(Request("b", prompt_of(0, 20, seed=9)))  # another prompt: the same one would wait for a block of "a"
    with pytest.raises(QueueFull, match="2 requests are waiting"):
        engine.add(Request("c", PROMPT))
    engine.step()  # both run now
    engine.add(Request("c", PROMPT))
    assert (engine.stats().num_running, engine.stats().num_waiting) == (2, 1)


REFUSED: dict[str, tuple[Request, str]] = {
    "empty": (Request("r", ()), "between 1 and 95 tokens here, got 0"),
    "too long": (Request("r", (1,) * 96), "between 1 and 95 tokens here, got 96"),
    "too long to score": (Request("r", (1,) * 97, SamplingParams(max_tokens=0)), "between 1 and 96 tokens here, got 97"),
    "no such token": (Request("r", (1, 203)), r"between 0 and 202, got 1\.\.203"),
    "negative token": (Request("r", (-1,)), "between 0 and 202"),
    "logit_bias": (Request("r", (1,), SamplingParams(logit_bias={203: 1.0})), "between 0 and 202, got 203"),
    "stop token": (Request("r", (1,), SamplingParams(stop_token_ids=frozenset({-1}))), "between 0 and 202, got -1"),
    "same id": (Request("open", (1,)), "unique among open requests, got 'open' twice"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused(runner: ProgramRunner, kind: str) -> None:
    request, message = REFUSED[kind]
    engine = EngineCore(runner, [])
    engine.add(Request("open", PROMPT))
    with pytest.raises(ValueError, match=message):
        engine.add(request)
    assert engine.stats().num_waiting == 1, "a refused request leaves nothing behind"


def test_an_id_may_be_used_again_once_its_request_is_over(runner: ProgramRunner, tokens: list[int]) -> None:
    engine = EngineCore(runner, [])
    assert token_ids(generate(engine, PROMPT)) == token_ids(generate(engine, PROMPT)) == tokens


def test_a_cache_smaller_than_the_context_is_refused(runner: ProgramRunner) -> None:
    small = ProgramRunner(runner.step, runner.executable)
    small.limits = runner.limits.model_copy(update={"num_kv_blocks": 5})
    with pytest.raises(ValueError, match="5 blocks of 16 are fewer than 96 tokens"):
        EngineCore(small, [])
