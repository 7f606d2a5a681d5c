"""/tokenize and /detokenize."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Discriminator, Field, Tag

from runtime.server.protocol_chat import ChatPrompt
from runtime.server.protocol_generation import Body, ModelName, TokenId


class TokenizeTextBody(Body):
    prompt: str
    model: ModelName = None
    add_special_tokens: bool = True


class TokenizeChatBody(ChatPrompt):
    model: ModelName = None


def _form(body: object) -> str:
    is_chat = body.get("messages") is not None if isinstance(body, dict) else isinstance(body, TokenizeChatBody)
    return "a chat" if is_chat else "a text"


TokenizeBody = Annotated[
    Annotated[TokenizeTextBody, Tag("a text")] | Annotated[TokenizeChatBody, Tag("a chat")], Discriminator(_form)
]


class Tokens(BaseModel):
    tokens: list[int]
    count: int
    max_model_len: int


class DetokenizeBody(Body):
    tokens: Annotated[list[TokenId], Field(fail_fast=True)]
    model: ModelName = None


class DetokenizedText(BaseModel):
    prompt: str
