"""Fields that both generation endpoints share, and the usage they report."""

from __future__ import annotations

import logging
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

logger = logging.getLogger(__name__)

_UNSUPPORTED = (
    "functions",
    "guided_choice",
    "guided_grammar",
    "guided_json",
    "guided_regex",
    "structured_outputs",
    "tools",
)


class Body(BaseModel):
    """A request body. Fields that nobody here knows are accepted, and named in the log."""

    model_config = ConfigDict(extra="allow")

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, value: object) -> object:
        # Clients send null for what they leave open.
        return {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _name_unknown_fields(self) -> Body:
        if self.model_extra:
            logger.warning("%s: unknown fields are ignored: %s", type(self).__name__, ", ".join(sorted(self.model_extra)))
        return self


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


class StreamOptions(Body):
    include_usage: bool = False
    continuous_usage_stats: bool = False


class ResponseFormat(Body):
    type: str


class GenerationBody(Body):
    """How to sample and how to answer. None everywhere means: the model's default, then OpenAI's."""

    model: str | None = None
    n: Annotated[int, Field(ge=1, le=128)] = 1
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    max_tokens: int | None = None
    min_tokens: int = 0
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: Annotated[dict[int, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=1024)] | None = None
    stop: Annotated[
        Annotated[list[Annotated[str, Field(min_length=1, max_length=256)]], Field(max_length=32)] | None,
        BeforeValidator(_as_list),
    ] = None
    stop_token_ids: Annotated[list[int], Field(max_length=1024)] | None = None
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    truncate_prompt_tokens: Annotated[int, Field(ge=-1)] | None = None
    response_format: ResponseFormat | None = None
    user: str | None = None

    @model_validator(mode="after")
    def _refuse_what_would_change_the_answer(self) -> GenerationBody:
        for name in _UNSUPPORTED:
            if (self.model_extra or {}).get(name):
                raise ValueError(f"{name} is not supported here")
        if self.response_format is not None and self.response_format.type != "text":
            raise ValueError(f"response_format must be of type 'text', got {self.response_format.type!r}: not supported here")
        if "stream_options" in self.model_fields_set and not self.stream:
            raise ValueError("stream_options needs stream to be true")
        if self.truncate_prompt_tokens == 0:
            raise ValueError("truncate_prompt_tokens must be at least 1, or -1 for the model's limit; got 0")
        return self


class PromptTokensDetails(BaseModel):
    cached_tokens: int


class Usage(BaseModel):
    """Counts over all choices; a prompt counts once, however many choices it has."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails

    @classmethod
    def of(cls, num_prompt_tokens: int, num_completion_tokens: int, num_cached_tokens: int) -> Usage:
        return cls(
            prompt_tokens=num_prompt_tokens,
            completion_tokens=num_completion_tokens,
            total_tokens=num_prompt_tokens + num_completion_tokens,
            prompt_tokens_details=PromptTokensDetails(cached_tokens=num_cached_tokens),
        )


def to_json(response: BaseModel) -> str:
    """The response with the fields that were set, nulls among them: absent and null differ to clients."""
    return response.model_dump_json(exclude_unset=True)
