"""A scheduler that is driven without a model: every step computes what was planned, and each sequence says 0."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from runtime.block_manager import BlockManager
from runtime.request import Request, SamplingParams
from runtime.scheduler import Scheduled, Scheduler
from runtime.sequence import Sequence

BLOCK_SIZE = 4


def sequence_of(
    name: int, num_prompt: int, num_output: int = 1, *, priority: int = 0, client: str = "", prompt: int | None = None
) -> Sequence:
    """Prompts have nothing in common, except those that name the same `prompt`."""
    first = 1000 * (name if prompt is None else prompt)
    tokens = tuple(range(first, first + num_prompt))
    params = SamplingParams(max_tokens=num_output)
    return Sequence.from_request(Request(str(name), tokens, params, priority=priority, client=client))


@dataclass
class Simulation:
    """`first_token`, `last_token`: the steps in which each sequence got them. `num_tokens`: what each step computed."""

    scheduler: Scheduler
    step: int = 0
    first_token: dict[Sequence, int] = field(default_factory=dict)
    last_token: dict[Sequence, int] = field(default_factory=dict)
    num_tokens: list[int] = field(default_factory=list)
    served: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, *, num_blocks: int = 1000, max_num_seqs: int = 8, budget: int = 32) -> Simulation:
        return cls(Scheduler(BlockManager(num_blocks, BLOCK_SIZE), max_num_seqs, budget))

    def add(self, *sequences: Sequence) -> None:
        for sequence in sequences:
            self.scheduler.add(sequence)

    def advance(self) -> list[Scheduled]:
        """One step; what must hold of every step is checked."""
        scheduler, blocks = self.scheduler, self.scheduler.blocks
        plan = scheduler.schedule()
        self.num_tokens.append(sum(scheduled.num_new_tokens for scheduled in plan))
        assert self.num_tokens[-1] <= scheduler.max_num_batched_tokens
        assert [scheduled.sequence for scheduled in plan] == scheduler.running, "each running sequence advances"
        assert len(plan) <= scheduler.max_num_seqs
        for scheduled in plan:
            sequence = scheduled.sequence
            assert scheduled.num_new_tokens >= 1
            client = sequence.request.client
            self.served[client] = self.served.get(client, 0) + scheduled.num_new_tokens
            reaches_end = scheduled.reaches_end
            sequence.num_computed_tokens += scheduled.num_new_tokens
            assert len(sequence.block_table) * BLOCK_SIZE >= sequence.num_computed_tokens
            blocks.publish(sequence)
            if reaches_end:
                sequence.token_ids.append(0)
                self.first_token.setdefault(sequence, self.step)
                if sequence.num_generated_tokens == sequence.request.params.max_tokens:
                    self.last_token[sequence] = self.step
                    scheduler.remove(sequence)
        self.step += 1
        return plan

    def finish(self, arrivals: Mapping[int, Iterable[Sequence]] | None = None, max_num_steps: int = 5000) -> None:
        """Until all have ended that are here or in `arrivals`, by step."""
        arrivals = arrivals or {}
        until = self.step + max_num_steps
        while self.step <= max(arrivals, default=0) or self.scheduler.running or self.scheduler.waiting:
            assert self.step < until, "no end is in sight"
            self.add(*arrivals.get(self.step, ()))
            self.advance()
        assert self.scheduler.blocks.num_free_blocks == self.scheduler.blocks.num_blocks
