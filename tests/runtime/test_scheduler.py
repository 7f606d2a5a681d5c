"""The scheduler over random loads: everything finishes, no budget is broken, the oldest is never starved."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.block_manager import BlockManager
from runtime.request import Request, SamplingParams
from runtime.scheduler import Scheduler
from runtime.sequence import Sequence

BLOCK_SIZE = 4
loads = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 12), st.integers(0, 20)), min_size=1, max_size=12)


def sequence_of(name: int, num_prompt: int, num_output: int) -> Sequence:
    # Distinct prompts, so that sharing does not hide a shortage of blocks.
    prompt = tuple(name * 100 + i for i in range(num_prompt))
    return Sequence.from_request(Request(str(name), prompt, SamplingParams(max_tokens=num_output)))


@settings(max_examples=150)
@given(loads, st.integers(11, 24), st.integers(1, 6), st.integers(0, 20))
def test_every_load_finishes_within_its_limits(
    load: list[tuple[int, int, int]], num_blocks: int, max_num_seqs: int, extra_budget: int
) -> None:
    blocks = BlockManager(num_blocks, BLOCK_SIZE)  # at least 44 tokens: the longest request has 42
    scheduler = Scheduler(blocks, max_num_seqs, max_num_seqs + extra_budget)
    arrivals = [(step, sequence_of(i, prompt, output)) for i, (prompt, output, step) in enumerate(load)]
    unfinished = len(arrivals)
    for step in range(5000):
        for arrival, sequence in arrivals:
            if arrival == step:
                scheduler.add(sequence)
        oldest = scheduler.running[0] if scheduler.running else None
        plan = scheduler.schedule()
        assert sum(scheduled.num_new_tokens for scheduled in plan) <= scheduler.max_num_batched_tokens
        assert len(scheduler.running) <= max_num_seqs
        assert len(plan) == len(scheduler.running), "every running sequence advances in every step"
        if oldest is not None:
            assert plan[0].sequence is oldest, "the oldest is never preempted for a younger one"
        for scheduled in plan:
            sequence = scheduled.sequence
            assert scheduled.num_new_tokens >= 1
            end = sequence.num_computed_tokens + scheduled.num_new_tokens
            assert len(sequence.block_table) * BLOCK_SIZE >= end
            reaches_end = scheduled.reaches_end
            sequence.num_computed_tokens = end
            blocks.publish(sequence)
            if reaches_end:
                sequence.token_ids.append(0)
                if sequence.num_generated_tokens == sequence.request.params.max_tokens:
                    scheduler.remove(sequence)
                    unfinished -= 1
        if not unfinished:
            break
    assert not unfinished
    assert blocks.num_free_blocks == num_blocks


def test_the_youngest_gives_way_and_keeps_its_tokens() -> None:
    blocks = BlockManager(4, BLOCK_SIZE)
    scheduler = Scheduler(blocks, 2, 64)
    old, young = sequence_of(1, 7, 9), sequence_of(2, 8, 8)
    scheduler.add(old)
    scheduler.add(young)
    for _ in range(3):
        for scheduled in scheduler.schedule():
            sequence = scheduled.sequence
            sequence.num_computed_tokens = sequence.num_tokens
            sequence.token_ids.append(5)
    assert scheduler.running == [old]
    assert list(scheduler.waiting) == [young]
    assert scheduler.num_preemptions == 1
    assert young.num_computed_tokens == 0 and young.num_generated_tokens == 1 and not young.block_table


def test_a_budget_below_the_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="max_num_batched_tokens must be at least max_num_seqs"):
        Scheduler(BlockManager(4, 4), 8, 4)
