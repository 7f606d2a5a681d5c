"""The block manager against a plain model of what it must guarantee, over random histories."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from runtime.block_manager import BlockManager
from runtime.request import Request
from runtime.sequence import Sequence

NUM_BLOCKS, BLOCK_SIZE = 12, 4


def new_sequence(tokens: list[int]) -> Sequence:
    return Sequence.from_request(Request("r", tuple(tokens)))


class BlockManagerMachine(RuleBasedStateMachine):
    """Sequences start, compute and end in any order; `contents` is what a KV cache would hold, written by us alone."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = BlockManager(NUM_BLOCKS, BLOCK_SIZE)
        self.alive: list[Sequence] = []
        self.contents: dict[int, tuple[int, ...]] = {}

    @rule(tokens=st.lists(st.integers(0, 1), min_size=1, max_size=20))
    def start(self, tokens: list[int]) -> None:
        sequence = new_sequence(tokens)
        shared = self.blocks.cached_prefix(sequence)
        assert len(shared) * BLOCK_SIZE < len(tokens), "the last token must be computed"
        for index, block in enumerate(shared):
            prefix = tuple(tokens[: (index + 1) * BLOCK_SIZE])
            assert self.contents[block] == prefix, "a shared block must hold exactly this prefix"
        if self.blocks.can_hold(len(tokens), shared):
            self.blocks.share(sequence, shared)
            assert self.blocks.reserve(sequence, len(tokens))
            self.alive.append(sequence)

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def compute(self, data: st.DataObject) -> None:
        sequence = data.draw(st.sampled_from(self.alive))
        count = data.draw(st.integers(0, sequence.num_uncomputed_tokens))
        for position in range(sequence.num_computed_tokens, sequence.num_computed_tokens + count):
            block = sequence.block_table[position // BLOCK_SIZE]
            self.contents[block] = tuple(sequence.token_ids[: position + 1])
        sequence.num_computed_tokens += count
        self.blocks.publish(sequence)

    @precondition(lambda self: self.alive)
    @rule(data=st.data(), token=st.integers(0, 1))
    def grow(self, data: st.DataObject, token: int) -> None:
        sequence = data.draw(st.sampled_from(self.alive))
        free = self.blocks.num_free_blocks
        missing = self.blocks.num_blocks_for(sequence.num_tokens + 1) - len(sequence.block_table)
        fits = self.blocks.reserve(sequence, sequence.num_tokens + 1)
        assert fits == (missing <= free)
        if fits:
            sequence.token_ids.append(token)

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        sequence = data.draw(st.sampled_from(self.alive))
        self.alive.remove(sequence)
        self.blocks.release(sequence)

    @invariant()
    def no_block_is_lost_or_free_while_used(self) -> None:
        used = Counter(block for sequence in self.alive for block in sequence.block_table)
        assert len(used) + self.blocks.num_free_blocks == NUM_BLOCKS
        for sequence in self.alive:
            assert len(set(sequence.block_table)) == len(sequence.block_table)

    @invariant()
    def computed_tokens_are_intact(self) -> None:
        for sequence in self.alive:
            for index in range(sequence.num_computed_tokens // BLOCK_SIZE):
                prefix = tuple(sequence.token_ids[: (index + 1) * BLOCK_SIZE])
                assert self.contents[sequence.block_table[index]] == prefix


TestBlockManager = BlockManagerMachine.TestCase
TestBlockManager.settings = settings(max_examples=60, stateful_step_count=40)


@given(st.integers(-3, 0), st.integers(1, 4))
def test_sizes_must_be_positive(bad: int, good: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        BlockManager(bad, good)
    with pytest.raises(ValueError, match="at least 1"):
        BlockManager(good, bad)


def test_free_blocks_are_reused_least_recently_freed_first() -> None:
    blocks = BlockManager(3, 2)
    first, second = new_sequence([1, 2]), new_sequence([3, 4])
    for sequence in (first, second):
        assert blocks.reserve(sequence, 2)
        sequence.num_computed_tokens = 2
        blocks.publish(sequence)
    blocks.release(first)
    blocks.release(second)
    third = new_sequence([5, 6, 7, 8])
    assert blocks.reserve(third, 4)  # the never-used block, then `first`'s
    assert blocks.cached_prefix(new_sequence([1, 2, 9])) == []
    assert len(blocks.cached_prefix(new_sequence([3, 4, 9]))) == 1
