"""How a model marks what it thinks before it answers, and where a growing answer stands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from runtime.text_stream import Vocabulary

Phase = Literal["undecided", "reasoning", "answer"]


@dataclass(frozen=True)
class Reasoning:
    """The marks around a model's reasoning.

    `begin_token_ids` and `end_token_ids` write them. The end is found in the text, because a model may write its characters
    with other tokens: `token_bytes` gives the bytes that a token stands for. `is_open`: the prompt has begun the reasoning;
    otherwise an answer reasons if it begins with the first mark.
    """

    begin_token_ids: tuple[int, ...]
    end_token_ids: tuple[int, ...]
    end: bytes
    token_bytes: Callable[[int], bytes]
    is_open: bool = False

    @classmethod
    def between(cls, begin: str, end: str, vocabulary: Vocabulary, is_open: bool) -> Reasoning:
        """The reasoning that stands between two texts."""
        encode = vocabulary.tokenizer.encode_batch_fast
        begin_ids, end_ids = (tuple(e.ids) for e in encode([begin, end], add_special_tokens=False))
        return cls(begin_ids, end_ids, end.encode(), vocabulary.token_bytes, is_open)


class ReasoningProgress:
    """Follows an answer token by token. `num_tokens` is how many were thought, marks not counted.

    `num_before_answer` is how many tokens come before the answer, once it has begun. `phase` "undecided" lasts while it may
    still turn out to begin with the first mark.
    """

    def __init__(self, reasoning: Reasoning) -> None:
        self.reasoning = reasoning
        self.phase: Phase = "reasoning" if reasoning.is_open else "undecided"
        self.num_tokens = 0
        self.num_seen = 0
        self.num_before_answer = 0
        self._tail = b""

    def follow(self, token_ids: Sequence[int], num_prompt_tokens: int) -> None:
        """Take in what is new among the tokens behind the prompt."""
        for token in token_ids[num_prompt_tokens + self.num_seen :]:
            self._take(token)

    def begin_token(self) -> int | None:
        """The token that would go on with the first mark, while that is undecided."""
        return self.reasoning.begin_token_ids[self.num_seen] if self.phase == "undecided" else None

    def _take(self, token: int) -> None:
        if self.phase == "undecided":
            begin = self.reasoning.begin_token_ids
            if token != begin[self.num_seen]:
                self.phase = "answer"
            elif self.num_seen + 1 == len(begin):
                self.phase = "reasoning"
        elif self.phase == "reasoning":
            self._tail = (self._tail + self.reasoning.token_bytes(token))[-_tail_length(self.reasoning) :]
            self.num_tokens += 1
            if self.reasoning.end in self._tail:
                self.phase = "answer"
                self.num_before_answer = self.num_seen + 1
        self.num_seen += 1


def _tail_length(reasoning: Reasoning) -> int:
    # The token that ends the mark may say more; vocabularies have no longer tokens than this.
    return len(reasoning.end) + 512
