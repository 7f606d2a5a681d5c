"""What the next step computes. Pure: no clock, no arrays, no I/O."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from runtime.block_manager import BlockManager
from runtime.sequence import Sequence


@dataclass(frozen=True)
class Scheduled:
    """`sequence` computes its next `num_new_tokens` tokens in this step; `starts` if they are the first it ever computes."""

    sequence: Sequence
    num_new_tokens: int
    starts: bool = False

    @property
    def reaches_end(self) -> bool:
        """Whether the step computes the last known token, so that a next one can be sampled."""
        return self.num_new_tokens == self.sequence.num_uncomputed_tokens


class Scheduler:
    """Continuous batching with chunked prefill and preemption by recompute.

    A step has a budget of `max_num_batched_tokens`. Running sequences come first, oldest first: a decoding one takes one
    token, one in prefill takes a chunk of what it lacks. Then waiting ones are admitted, first come first served, while budget,
    `max_num_seqs` and blocks last. When a running sequence finds no free block, the youngest one gives its blocks back and
    waits at the head of the queue; its tokens are kept and computed again.
    """

    def __init__(self, blocks: BlockManager, max_num_seqs: int, max_num_batched_tokens: int) -> None:
        if max_num_seqs < 1 or max_num_batched_tokens < max_num_seqs:
            raise ValueError(
                "max_num_batched_tokens must be at least max_num_seqs, and that at least 1, so that every running sequence "
                f"can decode; got {max_num_batched_tokens} and {max_num_seqs}"
            )
        self.blocks = blocks
        self.max_num_seqs = max_num_seqs
        self.max_num_batched_tokens = max_num_batched_tokens
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.num_preemptions = 0

    def add(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a finished or aborted sequence and free its blocks."""
        if sequence in self.running:
            self.running.remove(sequence)
        else:
            self.waiting.remove(sequence)
        self.blocks.release(sequence)

    def schedule(self) -> list[Scheduled]:
        """The next step's work; blocks for it are reserved. Empty only if nothing waits or runs."""
        plan: list[Scheduled] = []
        # Each running sequence behind the current one is owed at least one token, so that prefill never starves decode.
        budget = self.max_num_batched_tokens
        index = 0
        while index < len(self.running):
            sequence = self.running[index]
            num_behind = len(self.running) - index - 1
            num_new = min(sequence.num_uncomputed_tokens, budget - num_behind)
            if not self._make_room(sequence, sequence.num_computed_tokens + num_new):
                continue  # `sequence` itself was the youngest and has been preempted; `index` now is past the end.
            plan.append(Scheduled(sequence, num_new))
            budget -= num_new
            index += 1
        while budget and self.waiting and len(self.running) < self.max_num_seqs:
            scheduled = self._admit(self.waiting[0], budget)
            if scheduled is None:
                break
            self.running.append(self.waiting.popleft())
            plan.append(scheduled)
            budget -= scheduled.num_new_tokens
        assert plan or not (self.running or self.waiting), "a lone sequence always fits: the engine checks its length"
        return plan

    def _make_room(self, sequence: Sequence, num_tokens: int) -> bool:
        while not self.blocks.reserve(sequence, num_tokens):
            victim = self.running.pop()
            self.blocks.release(victim)
            victim.was_preempted = True
            self.waiting.appendleft(victim)
            self.num_preemptions += 1
            if victim is sequence:
                return False
        return True

    def _admit(self, sequence: Sequence, budget: int) -> Scheduled | None:
        # A request that wants its prompt scored needs the logits of every prompt token, so nothing of it may be skipped.
        shared, hashes = ([], []) if sequence.request.params.prompt_logprobs else self.blocks.cached_prefix(sequence.token_ids)
        # All of the prompt must fit, not only its first chunk: otherwise two long prompts could evict each other for ever.
        if not self.blocks.can_hold(sequence.num_tokens, shared):
            return None
        self.blocks.share(sequence, shared, hashes)
        num_new = min(sequence.num_uncomputed_tokens, budget)
        reserved = self.blocks.reserve(sequence, sequence.num_computed_tokens + num_new)
        assert reserved
        return Scheduled(sequence, num_new, starts=not sequence.was_preempted)
