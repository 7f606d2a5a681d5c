"""A request while the engine holds it: its tokens, its blocks, how far it has been computed."""

from __future__ import annotations

from dataclasses import dataclass, field

from runtime.logits.order import processors_of
from runtime.logits.processor import LogitsProcessor
from runtime.request import Logprobs, Request


@dataclass(eq=False)
class Sequence:
    """`token_ids` is the prompt and what was generated after it; the first `num_computed_tokens` of them have their keys and
    values in `block_table`'s blocks, in order. `processors` change its logits, in this order; they outlive its blocks.

    `block_hashes` identify full blocks of tokens from the first on, as many as were asked for, computed or not; the first
    `num_published_blocks` of the table can be found by others (see `BlockManager`).
    """

    request: Request
    token_ids: list[int]
    block_table: list[int] = field(default_factory=list)
    block_hashes: list[bytes] = field(default_factory=list)
    num_published_blocks: int = 0
    num_computed_tokens: int = 0
    num_cached_tokens: int = 0
    was_preempted: bool = False
    waits_for: tuple[Sequence, int] | None = None
    """The sequence that computes the same beginning, and how many tokens of it are waited for."""
    prompt_logprobs: list[Logprobs] = field(default_factory=list)
    processors: tuple[LogitsProcessor, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.processors = processors_of(self.request)

    @classmethod
    def from_request(cls, request: Request) -> Sequence:
        return cls(request, list(request.prompt_token_ids))

    @property
    def has_started(self) -> bool:
        """Whether it has ever left the queue."""
        return self.was_preempted or bool(self.block_table)

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def num_prompt_tokens(self) -> int:
        return len(self.request.prompt_token_ids)

    @property
    def num_generated_tokens(self) -> int:
        return self.num_tokens - self.num_prompt_tokens

    @property
    def num_uncomputed_tokens(self) -> int:
        return self.num_tokens - self.num_computed_tokens

    @property
    def is_held(self) -> bool:
        """Whether what it waits for is still being computed."""
        if self.waits_for is None:
            return False
        other, num_tokens = self.waits_for
        if other.block_table and other.num_computed_tokens < num_tokens:
            return True
        self.waits_for = None
        return False

    @property
    def shares_blocks(self) -> bool:
        """Whether it may begin on blocks that others computed. A scored prompt needs the logits of all its tokens."""
        return not self.request.params.prompt_logprobs
