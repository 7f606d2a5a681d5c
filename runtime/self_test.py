"""Whether a bundle, loaded here, computes what it computed when it was made."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from artifacts.errors import BundleError
from artifacts.reader import Bundle
from artifacts.self_test import SELF_TEST_NAME, RecordedPrompt, SelfTest
from runtime.batch import Span, build_batch
from runtime.model_runner import ModelRunner

#: Any token will do for one step.
_ANY_TOKEN = 0


class SelfTestError(BundleError):
    """The bundle, loaded, does not answer as it did when it was made."""

    def __init__(self, difference: str) -> None:
        super().__init__(f"the self-test fails: {difference}; this bundle must not be served here", SELF_TEST_NAME)


def record(runner: ModelRunner, prompts: Sequence[Sequence[int]], num_tokens: int, *, bits: bool) -> SelfTest:
    """What `runner` answers to each of `prompts`, `num_tokens` long. `bits`: the logits' own are recorded as well."""
    recorded = []
    for prompt in prompts:
        answer, logits_sha256 = _answer(runner, prompt, num_tokens)
        recorded.append(
            RecordedPrompt(prompt=tuple(prompt), answer=tuple(answer), logits_sha256=logits_sha256 if bits else None)
        )
    return SelfTest(prompts=tuple(recorded))


def check(bundle: Bundle, runner: ModelRunner) -> str:
    """SelfTestError unless `runner` repeats what the bundle has recorded; one of a bundle without records must do a step.

    What was checked, in words. No engine may hold the runner's cache meanwhile.
    """
    if SELF_TEST_NAME not in bundle.manifest.files:
        _answer(runner, [_ANY_TOKEN], 1)
        return f"it has no {SELF_TEST_NAME}, so that one step was all that could be tried"
    test = SelfTest.parse(bundle.read(SELF_TEST_NAME))
    for number, recorded in enumerate(test.prompts, start=1):
        _check_fits(recorded, runner)
        answer, logits_sha256 = _answer(runner, recorded.prompt, len(recorded.answer))
        if tuple(answer) != recorded.answer:
            at = next(i for i, (was, is_now) in enumerate(zip(recorded.answer, answer, strict=True)) if was != is_now)
            raise SelfTestError(
                f"recorded prompt {number} must be answered with token {recorded.answer[at]} at place {at + 1}, "
                f"got {answer[at]}"
            )
        if recorded.logits_sha256 not in (None, logits_sha256):
            raise SelfTestError(f"the logits of recorded prompt {number} must have the bits that they had, and have others")
    has_bits = all(recorded.logits_sha256 for recorded in test.prompts)
    return f"{len(test.prompts)} recorded prompts are answered {'bit for bit' if has_bits else 'token for token'} as before"


def _check_fits(recorded: RecordedPrompt, runner: ModelRunner) -> None:
    num_tokens, limits = len(recorded.prompt) + len(recorded.answer), runner.limits
    if num_tokens > limits.max_model_len or max(recorded.prompt) >= runner.vocab_size:
        raise SelfTestError(
            f"a recorded prompt and its answer must fit the model, {limits.max_model_len} tokens of a vocabulary of "
            f"{runner.vocab_size}; got {num_tokens} tokens up to {max(recorded.prompt)}"
        )


def _answer(runner: ModelRunner, prompt: Sequence[int], num_tokens: int) -> tuple[list[int], str]:
    """The likeliest token, again and again, and the sha256 of the logits. SelfTestError where those are no numbers."""
    limits, ids, num_computed = runner.limits, list(prompt), 0
    block_table = range(-(-(len(prompt) + num_tokens) // limits.kv_block_size))
    bits = hashlib.sha256()
    while len(ids) < len(prompt) + num_tokens:
        chunk = ids[num_computed : num_computed + limits.max_num_batched_tokens]
        reaches_end = num_computed + len(chunk) == len(ids)
        span = Span(chunk, num_computed, block_table, num_logits=int(reaches_end))
        logits = runner.run(build_batch([span], limits.kv_block_size))
        num_computed += len(chunk)
        if reaches_end:
            row = np.ascontiguousarray(logits[0], np.dtype("<f4"))
            if not np.isfinite(row).all():
                raise SelfTestError(f"a step must give finite logits, and gives {row[~np.isfinite(row)][0]}")
            bits.update(row.data)
            ids.append(int(row.argmax()))
    return ids[len(prompt) :], bits.hexdigest()
