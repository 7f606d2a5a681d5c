"""What the next step computes. Pure: no clock, no arrays, no I/O."""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass
from itertools import islice

from runtime.block_manager import BlockManager
from runtime.fair_share import FairShare
from runtime.prefill_split import split
from runtime.sequence import Sequence
from runtime.waiting_queue import WaitingQueue

#: How many of the queue a step considers, so that a long queue costs no more than a short one: those that wait for another's
#: blocks, such as the choices of a long prompt, hide nobody behind them up to the second bound.
_MAX_CONSIDERED = 32
_MAX_LOOKED_AT = 256


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
    """Continuous batching with chunked prefill, fair admission and preemption by recompute.

    A step has a budget of `max_num_batched_tokens`: no step, and so no wait for a next token, is longer than that, whatever
    prompts come. Every running sequence gets a token of it; what is left is split among prompts (`prefill_split`). Waiting
    ones are admitted in the order of `WaitingQueue` while seats (`max_num_seqs`) and blocks last, if the split gives them
    anything: a short prompt beside a long one, a long one after it. One whose next blocks a running sequence is about to
    compute waits for them, and then shares them: that is how the n choices of a prompt compute it once.

    `running` is in order of priority, then age. When a sequence finds no free block, the last one of them gives its blocks
    back and waits before all others of its priority; its tokens are kept and computed again.
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
        self.shares = FairShare()
        self.waiting = WaitingQueue(self.shares)
        self.running: list[Sequence] = []
        self.num_preemptions = 0

    def add(self, sequence: Sequence) -> None:
        self.waiting.add(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a finished or aborted sequence and free its blocks."""
        if sequence in self.running:
            self.running.remove(sequence)
        else:
            self.waiting.remove(sequence)
        self.blocks.release(sequence)

    def schedule(self) -> list[Scheduled]:
        """The next step's work; blocks for it are reserved. Empty only if nothing waits or runs."""
        num_preemptions = self.num_preemptions
        plan = self._advance_running()
        if self.num_preemptions == num_preemptions:  # otherwise there is no room for anybody new
            starting = self._admit()
            if starting:
                # Those that are admitted only take from what the others would have got, whose blocks are reserved already.
                plan = self._advance_running(starting)
        assert plan or not (self.running or self.waiting), "a lone sequence always fits: the engine checks its length"
        for scheduled in plan:
            self._charge(scheduled)
        return plan

    def _advance_running(self, starting: frozenset[Sequence] = frozenset()) -> list[Scheduled]:
        counts = self._split()
        plan: list[Scheduled] = []
        for sequence, num_new in counts.items():
            if not self._make_room(sequence, sequence.num_computed_tokens + num_new):
                break  # it was the last one itself, and has been preempted
            plan.append(Scheduled(sequence, num_new, starts=sequence in starting and not sequence.was_preempted))
            if len(plan) == len(self.running):
                break  # those behind it have been preempted
        return plan

    def _split(self) -> dict[Sequence, int]:
        """The tokens that each running sequence computes next, in order: one is owed to each."""
        counts = dict.fromkeys(self.running, 1)
        prompts = self._prompts()
        lacks = [sequence.num_uncomputed_tokens - 1 for sequence in prompts]
        for sequence, more in zip(prompts, split(self.max_num_batched_tokens - len(self.running), lacks), strict=True):
            counts[sequence] += more
        return counts

    def _num_for_newcomer(self, num_lacking: int) -> int:
        """The tokens that the split would give to one more prompt, to which nothing is owed yet."""
        lacks = [sequence.num_uncomputed_tokens - 1 for sequence in self._prompts()]
        return split(self.max_num_batched_tokens - len(self.running), [*lacks, num_lacking])[-1]

    def _prompts(self) -> list[Sequence]:
        """Those that compute more than the token that they generated last."""
        return [sequence for sequence in self.running if sequence.num_uncomputed_tokens > 1]

    def _make_room(self, sequence: Sequence, num_tokens: int) -> bool:
        while not self.blocks.reserve(sequence, num_tokens):
            victim = self.running.pop()
            self.blocks.release(victim)
            victim.was_preempted = True
            self.waiting.put_back(victim)
            self.num_preemptions += 1
            if victim is sequence:
                return False
        return True

    def _admit(self) -> frozenset[Sequence]:
        """Move those that may start from the queue to the running; they have blocks for their first token."""
        if not self.waiting or len(self.running) >= self.max_num_seqs:
            return frozenset()
        # All of a prompt must fit beside what the prompts that run still need: otherwise they would evict each other.
        num_promised = sum(self.blocks.num_missing(sequence) for sequence in self.running)
        admitted: list[Sequence] = []
        num_considered = 0
        for sequence in list(islice(self.waiting, _MAX_LOOKED_AT)):
            if len(self.running) == min(self.max_num_seqs, self.max_num_batched_tokens) or num_considered == _MAX_CONSIDERED:
                break
            if sequence.is_held:
                continue
            shared = self.blocks.cached_prefix(sequence)
            if self._hold(sequence, len(shared)):
                continue
            num_considered += 1
            if not self.blocks.can_hold(sequence.num_tokens, shared, num_promised):
                break  # it has the first claim to the next blocks
            if not self._num_for_newcomer(sequence.num_tokens - len(shared) * self.blocks.block_size):
                continue
            self.blocks.share(sequence, shared)
            reserved = self.blocks.reserve(sequence, sequence.num_computed_tokens + 1)
            assert reserved
            num_promised += self.blocks.num_missing(sequence)
            self.waiting.remove(sequence)
            insort(self.running, sequence, key=lambda running: running.request.priority)
            admitted.append(sequence)
        return frozenset(admitted)

    def _hold(self, sequence: Sequence, num_shared: int) -> bool:
        """Whether a running sequence is about to compute what `sequence` needs next; it is held until then."""
        for other in self.running:
            if num_blocks := self.blocks.num_coming(other, sequence, num_shared):
                sequence.waits_for = other, num_blocks * self.blocks.block_size
                return True
        return False

    def _charge(self, scheduled: Scheduled) -> None:
        sequence = scheduled.sequence
        num_prompt_tokens = sequence.num_prompt_tokens - sequence.num_cached_tokens if scheduled.starts else 0
        self.shares.charge(sequence.request.client, num_prompt_tokens, int(scheduled.reaches_end))
