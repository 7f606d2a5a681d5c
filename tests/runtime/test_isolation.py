"""What one request makes a step raise ends that request; the others say what they would have said alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from artifacts.manifest import Limits
from runtime.batch import Batch
from runtime.draws import draws_of
from runtime.engine_core import EngineCore
from runtime.request import Request, SamplingParams, TokenOutput
from runtime.sampler import NoToken, logprobs_of
from runtime.sequence import Sequence

VOCAB = 16
POISON = 13
LIMITS = Limits(kv_block_size=16, num_kv_blocks=32, max_num_seqs=4, max_num_batched_tokens=64, max_model_len=64, num_threads=1)
GREEDY = SamplingParams(temperature=0, max_tokens=6)
DRAWN = SamplingParams(temperature=1.0, seed=3, max_tokens=6)


@dataclass
class Runner:
    """Logits that depend on the last token alone; after POISON they are `poisoned`."""

    poisoned: float = np.nan
    limits: Limits = LIMITS
    vocab_size: int = VOCAB

    def run(self, batch: Batch) -> np.ndarray[Any, np.dtype[np.float32]]:
        last = np.asarray(batch.token_ids)[batch.logit_rows]
        logits = np.stack([np.random.default_rng(token).normal(size=VOCAB) for token in last]).astype(np.float32)
        logits[:, POISON] = -np.inf
        logits[last == POISON] = self.poisoned
        return logits


def finish(engine: EngineCore, *requests: Request) -> dict[str, list[TokenOutput]]:
    outputs: dict[str, list[TokenOutput]] = {request.id: [] for request in requests}
    for request in requests:
        engine.add(request)
    while engine.has_work():
        for output in engine.step():
            outputs[output.request_id].append(output)
    return outputs


@pytest.mark.parametrize("poisoned", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "params",
    [
        GREEDY,
        DRAWN,
        SamplingParams(temperature=0.5, seed=1, top_p=0.5, top_k=3),
        SamplingParams(temperature=1.0, seed=1, min_p=0.1, logprobs=3),
        SamplingParams(temperature=0, repetition_penalty=2.0, frequency_penalty=1.0),
    ],
)
def test_logits_that_are_no_numbers_end_one_request(poisoned: float, params: SamplingParams) -> None:
    neighbours = [Request("a", (1, 2), GREEDY), Request("b", (3,), DRAWN)]
    expected = [finish(EngineCore(Runner(), []), request)[request.id] for request in neighbours]
    engine = EngineCore(Runner(poisoned), [])
    outputs = finish(engine, neighbours[0], Request("poisoned", (5, POISON), params), neighbours[1])
    assert [outputs["a"], outputs["b"]] == expected
    (output,) = outputs["poisoned"]
    assert isinstance(output.error, NoToken) and output.finish_reason == "abort" and output.token_id is None
    stats = engine.stats()
    assert stats.num_free_blocks == stats.num_blocks and stats.num_ended == 3


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=1.0, seed=0, logit_bias=dict.fromkeys(range(VOCAB), -np.inf)),
        SamplingParams(temperature=0, logit_bias={3: np.nan}),
        SamplingParams(temperature=0, logit_bias={3: "much"}),  # type: ignore[dict-item]
        SamplingParams(temperature=1.0, seed="seed"),  # type: ignore[arg-type]
        SamplingParams(temperature=1.0, seed=0, repetition_penalty=np.inf, logit_bias={1: 0.0}),
    ],
)
def test_whatever_parameters_raise_ends_one_request(params: SamplingParams) -> None:
    expected = finish(EngineCore(Runner(), []), Request("a", (1, 2), DRAWN))["a"]
    outputs = finish(EngineCore(Runner(), []), Request("a", (1, 2), DRAWN), Request("bad", (1, 4), params))
    assert outputs["a"] == expected
    assert outputs["bad"][-1].finish_reason in ("abort", "length")


def test_stop_ids_that_leave_no_token_are_refused_before_they_run() -> None:
    engine = EngineCore(Runner(), [0])
    everything = frozenset(range(1, VOCAB))
    with pytest.raises(ValueError, match="min_tokens needs a token that does not end the text"):
        engine.add(Request("r", (1,), SamplingParams(max_tokens=4, min_tokens=1, stop_token_ids=everything)))
    assert not engine.has_work()
    finish(engine, Request("r", (1,), SamplingParams(seed=1, max_tokens=4, stop_token_ids=everything)))


def test_an_end_of_sequence_outside_the_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match=f"between 0 and {VOCAB - 1}, got {VOCAB}"):
        EngineCore(Runner(), [2, VOCAB])


def test_more_logprobs_than_tokens_are_all_of_them() -> None:
    assert len(logprobs_of(np.zeros(5, np.float32), 0, 20).top) == 5


def test_a_top_k_beyond_32_bits_reaches_a_device_as_off() -> None:
    sequences = [Sequence.from_request(Request("r", (1,), SamplingParams(top_k=k))) for k in (3, 2**31, 10**30)]
    assert draws_of(sequences).top_ks.tolist() == [3, 2**31 - 1, 2**31 - 1]
