"""Which processors a request has, in the order in which they are applied."""

from __future__ import annotations

from collections.abc import Iterator

from runtime.logits.bias import LogitBias
from runtime.logits.min_tokens import MinTokens
from runtime.logits.penalties import Penalties
from runtime.logits.processor import LogitsProcessor
from runtime.logits.reasoning_budget import ReasoningBudget
from runtime.request import Request


def processors_of(request: Request) -> tuple[LogitsProcessor, ...]:
    """New ones for one sequence of `request`; none for plain sampling.

    As in vLLM the grammar comes first, then bias, penalties and min_tokens. The budget of reasoning is last, because it
    decides alone when it is used up. Temperature and truncation follow (`runtime.sampler`).
    """
    return tuple(_processors(request))


def _processors(request: Request) -> Iterator[LogitsProcessor]:
    params = request.params
    if request.constraint is not None:
        yield request.constraint.processor(request.reasoning)
    if params.logit_bias:
        yield LogitBias()
    if params.presence_penalty or params.frequency_penalty or params.repetition_penalty != 1:
        yield Penalties()
    if params.min_tokens:
        yield MinTokens()
    if params.reasoning_budget is not None and request.reasoning is not None:
        yield ReasoningBudget(params.reasoning_budget, request.reasoning)
