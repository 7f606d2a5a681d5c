"""/v1/completions."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, Field, model_validator

from runtime.answer.events import EndReason
from runtime.server.protocol_generation import GenerationBody, Integer, TokenId, Usage
from runtime.server.wording import shown


def _false_as_none(value: object) -> object:
    # In chats logprobs is true or false; clients of both send its false here too.
    return None if value is False else value


TokenIds = Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]
Texts = Annotated[list[str], Field(min_length=1, fail_fast=True)]
ListsOfTokenIds = Annotated[list[TokenIds], Field(min_length=1, fail_fast=True)]


class CompletionBody(GenerationBody):
    prompt: str | TokenIds | Texts | ListsOfTokenIds
    max_tokens: Annotated[Integer, Field(ge=0)] | None = None
    echo: bool = False
    logprobs: Annotated[Annotated[Integer, Field(ge=0, le=20)] | None, BeforeValidator(_false_as_none)] = None
    add_special_tokens: bool = True
    best_of: Integer | None = None

    @model_validator(mode="after")
    def _refuse_ranking(self) -> CompletionBody:
        if self.best_of not in (None, 0, self.n):
            raise ValueError(f"best_of must equal n ({self.n}), got {shown(self.best_of)}: ranking is not supported here")
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
    finish_reason: EndReason | None


class Completion(BaseModel):
    """A whole response, or one chunk of a stream."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str | None
    choices: list[CompletionChoice]
    usage: Usage | None = None
