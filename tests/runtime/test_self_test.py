"""The self-test of a bundle: what is recorded is asked again, token for token and bit for bit."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from artifacts.errors import ContentError
from artifacts.manifest import Limits
from artifacts.self_test import SELF_TEST_NAME, RecordedPrompt, SelfTest
from runtime.self_test import SelfTestError, check, record

LIMITS = Limits(kv_block_size=16, num_kv_blocks=4, max_num_seqs=1, max_num_batched_tokens=4, max_model_len=64, num_threads=1)
VOCAB_SIZE = 50
PROMPTS = ([1, 2, 3], list(range(10)))


class SummingRunner:
    """The likeliest token is the sum of all tokens so far, as a cache by slots has them; `shift` moves all other logits."""

    limits, vocab_size = LIMITS, VOCAB_SIZE

    def __init__(self, shift: float = 0.0) -> None:
        self._shift = np.float32(shift)
        self._cache = np.zeros(LIMITS.num_kv_blocks * LIMITS.kv_block_size, np.int64)

    def run(self, batch: Any) -> Any:
        assert batch.token_ids.size <= LIMITS.max_num_batched_tokens
        self._cache[batch.slot_mapping] = batch.token_ids
        logits = np.zeros((batch.logit_rows.size, VOCAB_SIZE), np.float32) + self._shift
        for row in range(len(logits)):
            logits[row, self._cache[: batch.seq_lens[0]].sum() % VOCAB_SIZE] = 9
        return logits


def holding(test: SelfTest | bytes | None) -> Any:
    """A bundle with that file."""
    content = test.to_bytes() if isinstance(test, SelfTest) else test
    return SimpleNamespace(
        manifest=SimpleNamespace(files={} if content is None else {SELF_TEST_NAME: None}), read=lambda name: content
    )


def recorded(**options: Any) -> SelfTest:
    return record(SummingRunner(), PROMPTS, 5, **{"bits": True} | options)


def test_answers_are_those_of_the_whole_text_so_far() -> None:
    """Though a prompt is longer than a step."""
    for prompt, one in zip(PROMPTS, recorded().prompts, strict=True):
        text = list(prompt)
        for token in one.answer:
            assert token == sum(text) % VOCAB_SIZE
            text.append(token)


def test_the_same_runner_passes() -> None:
    assert check(holding(recorded()), SummingRunner()) == "2 recorded prompts are answered bit for bit as before"
    assert "token for token" in check(holding(recorded(bits=False)), SummingRunner(1e-6))


def test_other_bits_fail_though_the_tokens_are_the_same() -> None:
    with pytest.raises(SelfTestError, match="the logits of recorded prompt 1 must have the bits that they had"):
        check(holding(recorded()), SummingRunner(1e-6))


def test_another_token_fails() -> None:
    first = recorded().prompts[0]
    lie = SelfTest(prompts=(first.model_copy(update={"answer": (*first.answer[:2], 49)}),))
    with pytest.raises(SelfTestError, match=f"answered with token 49 at place 3, got {first.answer[2]}"):
        check(holding(lie), SummingRunner())


def test_what_cannot_be_asked_fails() -> None:
    for prompt in ([VOCAB_SIZE], [0] * 64):
        test = SelfTest(prompts=(RecordedPrompt(prompt=tuple(prompt), answer=(1,)),))
        with pytest.raises(SelfTestError, match="must fit the model, 64 tokens of a vocabulary of 50"):
            check(holding(test), SummingRunner())


@pytest.mark.parametrize("content", [b"", b"{}", b'{"prompts": []}', b'{"prompts": [{"prompt": [1], "answer": [-1]}]}'])
def test_a_malformed_file_is_refused(content: bytes) -> None:
    with pytest.raises(ContentError, match=r"self_test\.json: .*; build the bundle again"):
        check(holding(content), SummingRunner())


def test_a_bundle_without_records_does_a_step() -> None:
    assert "one step was all that could be tried" in check(holding(None), SummingRunner())
    with pytest.raises(SelfTestError, match="a step must give finite logits, and gives nan"):
        check(holding(None), SummingRunner(np.nan))
