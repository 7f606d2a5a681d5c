"""How a request is sampled: its own fields, then the model's generation_config.json, then OpenAI's defaults."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from artifacts.errors import UserError
from runtime.request import SamplingParams
from runtime.server.errors import invalid
from runtime.server.faults import explain
from runtime.server.protocol_generation import GenerationBody, RepetitionPenalty
from runtime.server.wording import shown

T = TypeVar("T")


class GenerationDefaults(BaseModel):
    """The part of generation_config.json that sets defaults. Null and absent mean OpenAI's default."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: RepetitionPenalty | None = None
    max_new_tokens: int | None = None

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> GenerationDefaults:
        """Raises UserError that names the field."""
        try:
            return cls.model_validate(config)
        except ValidationError as error:
            raise UserError(f"generation_config.json: {explain(error, config)[0]}") from error


def sampling_params(
    body: GenerationBody,
    defaults: GenerationDefaults,
    *,
    choice: int,
    max_tokens: int | None,
    default_max_tokens: int,
    room: int,
    may_fill_context: bool,
    logprobs: int | None,
    prompt_logprobs: bool,
) -> SamplingParams:
    """Parameters of one of a request's choices. `room` is what the model's context leaves after the prompt, in tokens.
    `max_tokens` may be above it only if the answer `may_fill_context`.

    A seeded request's choices draw from seed, seed + 1, ...; an unseeded one gets a random seed. Raises ApiError 400.
    """
    if max_tokens is None:
        max_tokens = min(_first(defaults.max_new_tokens, default_max_tokens), room)
    elif may_fill_context:
        max_tokens = min(max_tokens, room)
    elif max_tokens > room:
        raise invalid(
            f"max_tokens must fit the model's context: {room} tokens are left after the prompt, got {shown(max_tokens)}; "
            "shorten the prompt or ask for fewer",
            "max_tokens",
            "context_length_exceeded",
        )
    return SamplingParams(
        temperature=_first(body.temperature, defaults.temperature, 1.0),
        top_p=_first(body.top_p, defaults.top_p, 1.0),
        top_k=max(_first(body.top_k, defaults.top_k, 0), 0),  # -1 is also off, as in other servers
        min_p=_first(body.min_p, defaults.min_p, 0.0),
        seed=secrets.randbits(63) if body.seed is None else body.seed + choice,
        max_tokens=max_tokens,
        min_tokens=body.min_tokens,
        stop_token_ids=frozenset(body.stop_token_ids or ()),
        ignore_eos=body.ignore_eos,
        presence_penalty=body.presence_penalty or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        repetition_penalty=_first(body.repetition_penalty, defaults.repetition_penalty, 1.0),
        logit_bias=body.logit_bias or {},
        reasoning_budget=None if body.thinking_token_budget in (None, -1) else body.thinking_token_budget,
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
    )


def _first(*values: T | None) -> T:
    """The first value that is set; the last always is."""
    return next(value for value in values if value is not None)
