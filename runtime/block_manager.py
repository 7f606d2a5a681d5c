"""Ref-counted KV blocks, shared between sequences that begin with the same tokens."""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b

import numpy as np

from runtime.sequence import Sequence


def chain_hash(parent: bytes, token_ids: list[int]) -> bytes:
    """Identity of a full block: its tokens and all before them. 128 bits, so that a collision is not a practical concern."""
    return blake2b(parent + np.asarray(token_ids, np.int32).tobytes(), digest_size=16).digest()


def _root(cache_salt: str) -> bytes:
    """What the first block of a sequence follows: those with different salts have no block in common."""
    return blake2b(cache_salt.encode(), digest_size=16, person=b"cache salt").digest() if cache_salt else b""


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

    def cached_prefix(self, sequence: Sequence) -> list[int]:
        """Blocks that already hold a prefix of `sequence`'s tokens.

        At least the last token stays out, since its logits must be computed.
        """
        blocks: list[int] = []
        for index in range(self.num_sharable_blocks(sequence)):
            block = self._block_of.get(self._identity(sequence, index))
            if block is None:
                break
            blocks.append(block)
        return blocks

    def num_sharable_blocks(self, sequence: Sequence) -> int:
        """Full blocks of its tokens that another could have computed: all but the one of the last token."""
        return (sequence.num_tokens - 1) // self.block_size if sequence.shares_blocks else 0

    def num_coming(self, sequence: Sequence, other: Sequence, num_shared: int) -> int:
        """How many blocks `other` could begin on once `sequence`, which runs, has computed them.

        0 if there are no more than the `num_shared` that are cached now.
        """
        size = self.block_size
        most = min(sequence.num_tokens // size, self.num_sharable_blocks(other))
        if most <= num_shared or sequence.request.cache_salt != other.request.cache_salt:
            return 0
        ours, theirs = sequence.token_ids, other.token_ids
        start, end = num_shared * size, (num_shared + 1) * size
        # Most differ in this block already; only those that do not are compared from the beginning.
        if ours[start:end] != theirs[start:end] or ours[:start] != theirs[:start]:
            return 0
        same, differs = num_shared + 1, most + 1
        while differs - same > 1:
            middle = (same + differs) // 2
            if ours[same * size : middle * size] == theirs[same * size : middle * size]:
                same = middle
            else:
                differs = middle
        return same if sequence.num_computed_tokens < same * size else 0

    def _identity(self, sequence: Sequence, index: int) -> bytes:
        """The chain hash of a full block of `sequence`'s tokens, computed once."""
        hashes, size = sequence.block_hashes, self.block_size
        for i in range(len(hashes), index + 1):
            parent = hashes[-1] if i else _root(sequence.request.cache_salt)
            hashes.append(chain_hash(parent, sequence.token_ids[i * size : (i + 1) * size]))
        return hashes[index]

    def num_missing(self, sequence: Sequence) -> int:
        """Blocks that `sequence` lacks for the tokens it has."""
        return max(0, self.num_blocks_for(sequence.num_tokens) - len(sequence.block_table))

    def can_hold(self, num_tokens: int, shared: list[int], num_promised: int = 0) -> bool:
        """Whether a sequence of `num_tokens` tokens fits, given the cached blocks it would share; others were promised some."""
        newly_taken = sum(1 for block in shared if self._ref_counts[block] == 0)
        return self.num_blocks_for(num_tokens) - len(shared) + newly_taken + num_promised <= self.num_free_blocks

    def share(self, sequence: Sequence, blocks: list[int]) -> None:
        """Start an empty `sequence` on cached blocks."""
        assert not sequence.block_table
        for block in blocks:
            if self._ref_counts[block] == 0:
                del self._free[block]
            self._ref_counts[block] += 1
        sequence.block_table = list(blocks)
        sequence.num_published_blocks = len(blocks)
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
        for index in range(sequence.num_published_blocks, sequence.num_computed_tokens // self.block_size):
            identity = self._identity(sequence, index)
            if identity not in self._block_of:
                block = sequence.block_table[index]
                self._block_of[identity] = block
                self._hash_of[block] = identity
            sequence.num_published_blocks = index + 1

    def release(self, sequence: Sequence) -> None:
        """Drop all of `sequence`'s references; it is as if it had not been computed."""
        # Last block first: a prefix is worth more than what follows it, so it is taken later.
        for block in reversed(sequence.block_table):
            self._ref_counts[block] -= 1
            if self._ref_counts[block] == 0:
                self._free[block] = None
        sequence.block_table = []
        sequence.num_published_blocks = 0
        sequence.num_computed_tokens = 0

    def _forget(self, block: int) -> None:
        identity = self._hash_of.pop(block, None)
        if identity is not None:
            del self._block_of[identity]
