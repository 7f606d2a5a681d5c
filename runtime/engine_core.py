"""The synchronous core of serving: requests in, one step at a time, tokens out."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.batch import Span, build_batch
from runtime.block_manager import BlockManager
from runtime.draws import draws_of, is_plain
from runtime.model_runner import DrawingRunner, ModelRunner
from runtime.request import FinishReason, Logprobs, Request, RequestError, TokenOutput
from runtime.sampler import logprobs_of, sample
from runtime.scheduler import Scheduled, Scheduler
from runtime.sequence import Sequence
from runtime.serving_limits import MAX_QUEUE
from runtime.step_work import StepWork

logger = logging.getLogger(__name__)


class QueueFull(RuntimeError):
    """The waiting queue is at its limit; the caller should come back later."""


@dataclass(frozen=True)
class EngineStats:
    """Counts now (`running`, `waiting`, blocks) and since the start (the others). `num_ended` is of those that had started."""

    num_running: int
    num_waiting: int
    num_free_blocks: int
    num_blocks: int
    num_preemptions: int
    num_cached_tokens: int
    num_prompt_tokens: int
    num_generated_tokens: int
    num_ended: int
    block_size: int = 1
    max_num_seqs: int = 1

    @property
    def kv_usage(self) -> float:
        """The share of the KV blocks that is in use."""
        return 1 - self.num_free_blocks / self.num_blocks


class EngineCore:
    """Continuous batching over a `ModelRunner`. Not thread-safe: one thread owns it.

    `last_started` are the requests that left the queue in the last step, `last_work` is what it computed.
    """

    def __init__(self, runner: ModelRunner, eos_token_ids: Iterable[int], max_num_waiting: int = MAX_QUEUE) -> None:
        limits = runner.limits
        if limits.max_model_len > limits.num_kv_blocks * limits.kv_block_size:
            raise ValueError(
                "the KV cache must hold one sequence of max_model_len: "
                f"{limits.num_kv_blocks} blocks of {limits.kv_block_size} are fewer than {limits.max_model_len} tokens; "
                "raise num_kv_blocks or lower max_model_len"
            )
        self.max_model_len = limits.max_model_len
        self.max_num_seqs = limits.max_num_seqs
        self.max_num_waiting = max_num_waiting
        self.vocab_size = runner.vocab_size
        self.last_started: tuple[str, ...] = ()
        self.last_work = StepWork(0, 0, 0, 0)
        self._runner = runner
        # Asked once: looking through a protocol's members is too slow for every step.
        self._drawing_runner = runner if isinstance(runner, DrawingRunner) else None
        self.eos_token_ids = frozenset(eos_token_ids)
        for token in self.eos_token_ids:
            if not 0 <= token < self.vocab_size:
                raise ValueError(f"tokens that end a text must be between 0 and {self.vocab_size - 1}, got {token}")
        self._blocks = BlockManager(limits.num_kv_blocks, limits.kv_block_size)
        self._scheduler = Scheduler(self._blocks, limits.max_num_seqs, limits.max_num_batched_tokens)
        self._sequences: dict[str, Sequence] = {}
        self._num_cached_tokens = self._num_prompt_tokens = self._num_generated_tokens = self._num_ended = 0

    def add(self, request: Request) -> None:
        """Queue `request`. RequestError if it can never run; QueueFull if too many wait."""
        prompt, params = request.prompt_token_ids, request.params
        # A request that generates nothing may fill the context; any other needs room for one token.
        room = self.max_model_len - (1 if params.max_tokens else 0)
        if not 1 <= len(prompt) <= room:
            raise RequestError(f"a prompt must have between 1 and {room} tokens here, got {len(prompt)}")
        least, most = min(prompt), max(prompt)
        if least < 0 or most >= self.vocab_size:
            raise RequestError(f"prompt token ids must be between 0 and {self.vocab_size - 1}, got {least}..{most}")
        for token in params.logit_bias.keys() | params.stop_token_ids:
            if not 0 <= token < self.vocab_size:
                raise RequestError(f"logit_bias and stop token ids must be between 0 and {self.vocab_size - 1}, got {token}")
        if params.min_tokens and len(self.eos_token_ids | params.stop_token_ids) == self.vocab_size:
            raise RequestError(
                "min_tokens needs a token that does not end the text; stop_token_ids and the model's own leave none of "
                f"{self.vocab_size}",
                "min_tokens",
            )
        if request.id in self._sequences:
            raise ValueError(f"request ids must be unique among open requests, got {request.id!r} twice")
        if len(self._scheduler.waiting) >= self.max_num_waiting:
            raise QueueFull(f"{self.max_num_waiting} requests are waiting already")
        sequence = Sequence.from_request(request)
        self._sequences[request.id] = sequence
        self._scheduler.add(sequence)

    def abort(self, request_id: str) -> None:
        """Forget a request and free its blocks; one that is not open is ignored."""
        sequence = self._sequences.get(request_id)
        if sequence is not None:
            self._end(sequence)

    def is_queued(self, request_id: str) -> bool:
        """Whether the request is open and has never left the queue."""
        sequence = self._sequences.get(request_id)
        return sequence is not None and not sequence.has_started

    def num_waiting_of(self, client: str) -> int:
        """How many of the waiting sequences are `client`'s."""
        return self._scheduler.waiting.num_of(client)

    def has_work(self) -> bool:
        return bool(self._sequences)

    def stats(self) -> EngineStats:
        return EngineStats(
            num_running=len(self._scheduler.running),
            num_waiting=len(self._scheduler.waiting),
            num_free_blocks=self._blocks.num_free_blocks,
            num_blocks=self._blocks.num_blocks,
            num_preemptions=self._scheduler.num_preemptions,
            num_cached_tokens=self._num_cached_tokens,
            num_prompt_tokens=self._num_prompt_tokens,
            num_generated_tokens=self._num_generated_tokens,
            num_ended=self._num_ended,
            block_size=self._blocks.block_size,
            max_num_seqs=self.max_num_seqs,
        )

    def step(self) -> list[TokenOutput]:
        """Schedule, run and sample once. Sequences in the middle of their prompt yield nothing.

        What raises while one sequence is sampled or scored ends that one, by an output with `error`; what the shared parts
        raise (the schedule, the model) is raised here, and all open requests are in doubt.
        """
        plan = self._scheduler.schedule()
        self.last_started = tuple(scheduled.sequence.request.id for scheduled in plan if scheduled.starts)
        if not plan:
            return []
        spans = [_span(scheduled) for scheduled in plan]
        self.last_work = StepWork.of(spans)
        batch = build_batch(spans, self._blocks.block_size)
        if self._drawing_runner is not None and all(is_plain(scheduled.sequence) for scheduled in plan):
            drawing = [scheduled.sequence for scheduled in plan if scheduled.reaches_end]
            tokens = iter(self._drawing_runner.draw(batch, draws_of(drawing)).tolist())
            outputs = [self._advance(scheduled, next(tokens) if scheduled.reaches_end else None) for scheduled in plan]
        else:
            self._prepare(plan)
            logits = self._runner.run(batch)
            ends = np.cumsum([span.num_logits for span in spans])
            outputs = [
                self._advance(scheduled, logits[end - span.num_logits : end])
                for scheduled, span, end in zip(plan, spans, ends, strict=True)
            ]
        return [output for output in outputs if output is not None]

    def _prepare(self, plan: Iterable[Scheduled]) -> None:
        """Let the processors of those that will sample begin, so that they work while the step runs."""
        for scheduled in plan:
            if scheduled.reaches_end:
                for processor in scheduled.sequence.processors:
                    processor.prepare(scheduled.sequence)

    def _advance(self, scheduled: Scheduled, result: NDArray[np.float32] | int | None) -> TokenOutput | None:
        try:
            return self._account(scheduled, result)
        except Exception as error:
            sequence = scheduled.sequence
            if not isinstance(error, RequestError):  # of this server's making, not of the client's
                logger.exception("request %s cannot go on", sequence.request.id)
            self._end(sequence)
            return TokenOutput(sequence.request.id, None, finish_reason="abort", error=error)

    def _account(self, scheduled: Scheduled, result: NDArray[np.float32] | int | None) -> TokenOutput | None:
        """Account for what a step computed: `result` is the sequence's logits, or the token that was drawn from them."""
        sequence, reaches_end = scheduled.sequence, scheduled.reaches_end
        if sequence.request.params.prompt_logprobs:
            assert isinstance(result, np.ndarray)
            self._score_prompt(sequence, result)
        sequence.num_computed_tokens += scheduled.num_new_tokens
        self._blocks.publish(sequence)
        if not reaches_end:
            return None
        params = sequence.request.params
        is_first = sequence.num_generated_tokens == 0
        if is_first:
            self._num_prompt_tokens += sequence.num_prompt_tokens
            self._num_cached_tokens += sequence.num_cached_tokens
        token: int | None = None
        logprobs: Logprobs | None = None
        if params.max_tokens:
            if isinstance(result, np.ndarray):
                token, logprobs = sample(result[-1], sequence, self.eos_token_ids)
            else:
                token = result
            assert token is not None
            sequence.token_ids.append(token)
            self._num_generated_tokens += 1
        reason = self._finish_reason(sequence, token)
        if reason is not None:
            self._end(sequence)
        return TokenOutput(
            request_id=sequence.request.id,
            token_id=token,
            finish_reason=reason,
            logprobs=logprobs,
            num_cached_tokens=sequence.num_cached_tokens,
            prompt_logprobs=tuple(sequence.prompt_logprobs) if is_first and params.prompt_logprobs else None,
        )

    def _end(self, sequence: Sequence) -> None:
        del self._sequences[sequence.request.id]
        self._num_ended += sequence.has_started
        self._scheduler.remove(sequence)

    def _score_prompt(self, sequence: Sequence, logits: NDArray[np.float32]) -> None:
        """Score the prompt tokens that follow the ones just computed, each by the logits before it."""
        start = sequence.num_computed_tokens
        num_top = sequence.request.params.logprobs or 0
        # After a preemption the prompt is computed again, and what was scored before is not scored twice.
        for position in range(max(start, len(sequence.prompt_logprobs)), sequence.num_prompt_tokens - 1):
            if position - start >= len(logits):
                break
            target = sequence.token_ids[position + 1]
            sequence.prompt_logprobs.append(logprobs_of(logits[position - start], target, num_top))

    def _finish_reason(self, sequence: Sequence, token: int | None) -> FinishReason | None:
        params = sequence.request.params
        if token is not None and token in params.stop_token_ids:
            return "stop"
        ends_anyway = sequence.request.constraint is not None  # nothing can follow what it lets end
        if token is not None and token in self.eos_token_ids and (ends_anyway or not params.ignore_eos):
            return "stop"
        if sequence.num_generated_tokens >= params.max_tokens or sequence.num_tokens >= self.max_model_len:
            return "length"
        return None


def _span(scheduled: Scheduled) -> Span:
    """What a scheduled sequence computes: logits of every token if its prompt is scored, else of the last if it samples."""
    sequence = scheduled.sequence
    start = sequence.num_computed_tokens
    tokens = sequence.token_ids[start : start + scheduled.num_new_tokens]
    scores_prompt = sequence.request.params.prompt_logprobs and start < sequence.num_prompt_tokens
    return Span(tokens, start, sequence.block_table, len(tokens) if scores_prompt else int(scheduled.reaches_end))
