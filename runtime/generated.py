"""What `runtime.Engine` gives back: whole answers, and pieces of one as they come."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runtime.answer.events import AnswerEvent, EndReason
    from runtime.answer.whole import ToolCall
    from runtime.request import Logprobs


@dataclass(frozen=True)
class Generated:
    """One answer. `finish_reason` is why it ended: "stop", "length" or "tool_calls"."""

    text: str
    token_ids: tuple[int, ...]
    """Every token that was drawn, an end of sequence among them."""
    finish_reason: EndReason
    logprobs: tuple[Logprobs | None, ...] | None
    """A score for each token, if asked for; with `echo` the prompt's come first, and its first token has none."""
    reasoning: str | None
    """What the model thought before it answered, None where it did not."""
    tool_calls: tuple[ToolCall, ...]
    num_prompt_tokens: int
    num_cached_tokens: int
    """How many of the prompt's tokens came from the prefix cache."""


@dataclass(frozen=True)
class Delta:
    """More of answer `index` (0 unless n answers were asked for). The last one of an answer has its `finish_reason`."""

    index: int
    text: str
    events: tuple[AnswerEvent, ...]
    """The same piece by kind: text, reasoning, tool calls, in the order in which they came."""
    finish_reason: EndReason | None
