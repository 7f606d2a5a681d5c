"""/v1/completions."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, model_validator

from runtime.request import FinishReason
from runtime.server.protocol_generation import GenerationBody, Usage

TokenIds = Annotated[list[int], Field(min_length=1, fail_fast=True)]


class CompletionBody(GenerationBody):
    prompt: (
        str
        | TokenIds
        | Annotated[list[str], Field(min_length=1, fail_fast=True)]
        | Annotated[list[TokenIds], Field(min_length=1, fail_fast=True)]
    )
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    echo: bool = False
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    add_special_tokens: bool = True
    best_of: int | None = None
    suffix: str | None = None

    @model_validator(mode="after")
    def _refuse_rerank_and_infill(self) -> CompletionBody:
        if self.best_of not in (None, self.n):
            raise ValueError(f"best_of must equal n ({self.n}), got {self.best_of}: ranking is not supported here")
        if self.suffix:
            raise ValueError("suffix is not supported here")
        return self

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts, one per group of n choices."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [[token for token in self.prompt if isinstance(token, int)]]
        return [prompt for prompt in self.prompt if not isinstance(prompt, int)]


class CompletionLogprobs(BaseModel):
    """One entry per token; those of the first prompt token are null, for nothing comes before it."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(BaseModel):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason | None


class Completion(BaseModel):
    """A whole response, or one chunk of a stream."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None
