"""/v1/chat/completions."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from runtime.answer.events import EndReason
from runtime.server.protocol_generation import Body, GenerationBody, Integer, Usage
from runtime.server.protocol_tools import MadeCall, Offer, ToolChoice, Tools
from runtime.server.wording import shown


class ContentPart(BaseModel):
    model_config = ConfigDict(extra="allow")

    type: str
    text: str | None = None

    @model_validator(mode="after")
    def _texts_have_text(self) -> ContentPart:
        if self.type == "text" and self.text is None:
            raise ValueError("must have a text, got none: it is of type 'text'")
        return self


class ChatMessage(BaseModel):
    """Further fields (name, reasoning ...) reach the chat template as they are."""

    model_config = ConfigDict(extra="allow")

    role: str
    content: str | Annotated[list[ContentPart], Field(fail_fast=True)] | None = None
    tool_calls: Annotated[list[MadeCall], Field(fail_fast=True)] | None = None
    tool_call_id: str | None = None

    @model_validator(mode="after")
    def _refuse_what_is_not_text(self) -> ChatMessage:
        reasons = {"function_call": "use tool_calls", "audio": "only text is supported here"}
        for name, reason in reasons.items():
            if value := (self.model_extra or {}).get(name):
                raise ValueError(f"must not have {name}, got {shown(value)}: {reason}")
        return self


class ChatPrompt(Body):
    """What turns messages into a prompt; `add_generation_prompt` left open means: unless the last message is continued."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, fail_fast=True)]
    add_generation_prompt: bool | None = None
    continue_final_message: bool = False
    add_special_tokens: bool = False
    chat_template_kwargs: dict[str, Any] | None = None
    documents: list[dict[str, Any]] | None = None
    reasoning_effort: str | None = None
    tools: Tools | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool = True
    _offer: Offer = PrivateAttr()

    @model_validator(mode="after")
    def _tools_agree(self) -> ChatPrompt:
        self._offer = Offer(self.tools, self.tool_choice, self.parallel_tool_calls)
        return self

    @property
    def offer(self) -> Offer:
        """The functions that the model may call."""
        return self._offer

    @property
    def template_variables(self) -> dict[str, Any]:
        """What the template may read beside the messages. A template that does not leaves it."""
        own = {"documents": self.documents, "reasoning_effort": self.reasoning_effort}
        return {name: value for name, value in own.items() if value is not None} | (self.chat_template_kwargs or {})


class ChatCompletionBody(GenerationBody, ChatPrompt):
    """Thoughts are left out of the answer unless `include_reasoning`; the model thinks all the same."""

    include_reasoning: bool = True
    max_tokens: Annotated[Integer, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[Integer, Field(ge=1)] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[Integer, Field(ge=0, le=20)] | None = None

    @model_validator(mode="after")
    def _logprobs_agree(self) -> ChatCompletionBody:
        if self.top_logprobs and not self.logprobs:
            raise ValueError(f"top_logprobs needs logprobs to be true, got {self.top_logprobs} without it")
        return self

    @property
    def answer_limit(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


class TopLogprob(BaseModel):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    content: list[TokenLogprob]


class CalledFunction(BaseModel):
    """`arguments` is the text of a JSON object; in a stream a piece of it."""

    name: str | None = None
    arguments: str


class AnswerCall(BaseModel):
    id: str
    type: Literal["function"]
    function: CalledFunction


class AnswerMessage(BaseModel):
    """`reasoning` is `reasoning_content` under the name that other clients read."""

    role: Literal["assistant"]
    content: str | None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[AnswerCall] | None = None


class ChatChoice(BaseModel):
    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: EndReason


class ChatCompletion(BaseModel):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str | None
    choices: list[ChatChoice]
    usage: Usage


class CallPart(BaseModel):
    """The first of a call has its id, type and name, each later one a piece of its arguments."""

    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: CalledFunction


class Delta(BaseModel):
    role: Literal["assistant"] | None = None
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[CallPart] | None = None


class ChatChunkChoice(BaseModel):
    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: EndReason | None


class ChatChunk(BaseModel):
    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str | None
    choices: list[ChatChunkChoice]
    usage: Usage | None = None
