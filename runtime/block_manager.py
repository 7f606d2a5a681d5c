"""Ref-counted KV blocks, shared between sequences that begin with the same tokens."""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b

import numpy as np

from runtime.sequence import Sequence


def chain_hash(parent: bytes, token_ids: list[int]) -> bytes:
    """Identity of a full block: its tokens and all before them. 128 bits, so that a collision is not a practical concern."""
    return blake2b(parent + np.asarray(token_ids, np.int32).tobytes(), digest_size=16).digest()


class BlockManager:
    """Which blocks are free, which are referenced and by how many, and which hold a known prefix.

    A block whose last reference goes keeps its content and its hash until it is needed: free blocks are taken least recently
    freed first. Only full, computed blocks are shared, and those are never written again, so no copy on write is needed.
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        if num_blocks < 1 or block_size < 1:
            raise ValueError(f"num_blocks and block_size must be at least 1, got {num_blocks} and {block_size}")
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))
        self._ref_counts = [0] * num_blocks
        self._hash_of: dict[int, bytes] = {}
        self._block_of: dict[bytes, int] = {}

    @property
    def num_free_blocks(self) -> int:
        return len(self._free)

    def num_blocks_for(self, num_tokens: int) -> int:
        """Blocks that hold `num_tokens` tokens."""
        return -(-num_tokens // self.block_size)

    def cached_prefix(self, token_ids: list[int]) -> tuple[list[int], list[bytes]]:
        """Blocks, and their hashes, that already hold a prefix of `token_ids`.

        At least the last token stays out, since its logits must be computed.
        """
        blocks: list[int] = []
        hashes: list[bytes] = []
        parent = b""
        for start in range(0, len(token_ids) - self.block_size, self.block_size):
            parent = chain_hash(parent, token_ids[start : start + self.block_size])
            block = self._block_of.get(parent)
            if block is None:
                break
            blocks.append(block)
            hashes.append(parent)
        return blocks, hashes

    def can_hold(self, num_tokens: int, shared: list[int]) -> bool:
        """Whether a sequence of `num_tokens` tokens fits, given the cached blocks it would share."""
        newly_taken = sum(1 for block in shared if self._ref_counts[block] == 0)
        return self.num_blocks_for(num_tokens) - len(shared) + newly_taken <= self.num_free_blocks

    def share(self, sequence: Sequence, blocks: list[int], hashes: list[bytes]) -> None:
        """Start an empty `sequence` on cached blocks."""
        assert not sequence.block_table
        for block in blocks:
            if self._ref_counts[block] == 0:
                del self._free[block]
            self._ref_counts[block] += 1
        sequence.block_table = list(blocks)
        sequence.block_hashes = list(hashes)
        sequence.num_computed_tokens = len(blocks) * self.block_size
        if not sequence.was_preempted:  # after a preemption it finds its own work again: that was no cached prompt
            sequence.num_cached_tokens = sequence.num_computed_tokens

    def reserve(self, sequence: Sequence, num_tokens: int) -> bool:
        """Give `sequence` blocks for its first `num_tokens` tokens; False, and nothing taken, if too few are free."""
        missing = self.num_blocks_for(num_tokens) - len(sequence.block_table)
        if missing > self.num_free_blocks:
            return False
        for _ in range(missing):
            block, _ = self._free.popitem(last=False)
            self._forget(block)
            self._ref_counts[block] = 1
            sequence.block_table.append(block)
        return True

    def publish(self, sequence: Sequence) -> None:
        """Make the full blocks that `sequence` has computed so far findable by others."""
        size = self.block_size
        for index in range(len(sequence.block_hashes), sequence.num_computed_tokens // size):
            parent = sequence.block_hashes[-1] if index else b""
            identity = chain_hash(parent, sequence.token_ids[index * size : (index + 1) * size])
            sequence.block_hashes.append(identity)
            if identity not in self._block_of:
                block = sequence.block_table[index]
                self._block_of[identity] = block
                self._hash_of[block] = identity

    def release(self, sequence: Sequence) -> None:
        """Drop all of `sequence`'s references; it is as if it had not been computed."""
        # Last block first: a prefix is worth more than what follows it, so it is taken later.
        for block in reversed(sequence.block_table):
            self._ref_counts[block] -= 1
            if self._ref_counts[block] == 0:
                self._free[block] = None
        sequence.block_table = []
        sequence.block_hashes = []
        sequence.num_computed_tokens = 0

    def _forget(self, block: int) -> None:
        identity = self._hash_of.pop(block, None)
        if identity is not None:
            del self._block_of[identity]
