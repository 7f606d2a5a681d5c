"""/tokenize and /detokenize."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from runtime.server.protocol_chat import ChatPrompt
from runtime.server.protocol_generation import Body


class TokenizeTextBody(Body):
    prompt: str
    model: str | None = None
    add_special_tokens: bool = True


class TokenizeChatBody(ChatPrompt):
    model: str | None = None


class Tokens(BaseModel):
    tokens: list[int]
    count: int
    max_model_len: int


class DetokenizeBody(Body):
    tokens: Annotated[list[int], Field(fail_fast=True)]
    model: str | None = None


class DetokenizedText(BaseModel):
    prompt: str
