"""/v1/responses: what clients send. What is answered is in `response_object`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from runtime.server.protocol_chat import ChatCompletionBody
from runtime.server.protocol_generation import Body, Integer, JsonObject, ModelName
from runtime.server.wording import shown


def _only_functions(kind: str) -> str:
    if kind != "function":
        raise ValueError(f"must be 'function', got {shown(kind)}: this server runs no tools of its own")
    return kind


def _only_text(kind: str) -> str:
    if kind not in ("input_text", "output_text", "text", "refusal", "summary_text", "reasoning_text"):
        raise ValueError(f"must be 'input_text' or 'output_text', got {shown(kind)}: only text is supported here")
    return kind


class TextPart(JsonObject):
    """A part of a content. A refusal is a text, too."""

    type: Annotated[str, AfterValidator(_only_text)]
    text: str = ""
    refusal: str = ""

    @model_validator(mode="after")
    def _has_its_text(self) -> TextPart:
        name = "refusal" if self.type == "refusal" else "text"
        if name not in self.model_fields_set:
            raise ValueError(f"must have a {name}, got none: it is of type {shown(self.type)}")
        return self


Content = str | Annotated[list[TextPart], Field(fail_fast=True)]


class MessageItem(JsonObject):
    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: Content


class FunctionCallItem(JsonObject):
    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str


class FunctionCallOutputItem(JsonObject):
    type: Literal["function_call_output"]
    call_id: str
    output: Content


class ReasoningItem(JsonObject):
    """What the model thought, as it was answered. What is encrypted here cannot be read, and is left out."""

    type: Literal["reasoning"]
    content: Annotated[list[TextPart], Field(fail_fast=True)] = Field(default_factory=list)
    summary: Annotated[list[TextPart], Field(fail_fast=True)] = Field(default_factory=list)


class OtherItem(JsonObject):
    """An item that no model here can read."""

    @model_validator(mode="before")
    @classmethod
    def _refuse(cls, value: Any) -> Any:
        kind = value.get("type") if isinstance(value, dict) else value
        raise ValueError(
            "must be an item of type message, function_call, function_call_output or reasoning, "
            f"got {shown(kind)}; leave it out, or send its text as a message"
        )


def _kind(item: object) -> str:
    if isinstance(item, JsonObject):
        return str(getattr(item, "type", "other"))
    kind = item.get("type") if isinstance(item, dict) else None
    if kind is None and isinstance(item, dict) and "role" in item:
        return "message"
    return kind if kind in ("message", "function_call", "function_call_output", "reasoning") else "other"


InputItem = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[FunctionCallItem, Tag("function_call")]
    | Annotated[FunctionCallOutputItem, Tag("function_call_output")]
    | Annotated[ReasoningItem, Tag("reasoning")]
    | Annotated[OtherItem, Tag("other")],
    Discriminator(_kind),
]


class FunctionTool(JsonObject):
    type: Annotated[str, AfterValidator(_only_functions)]
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class NamedTool(JsonObject):
    type: Annotated[str, AfterValidator(_only_functions)]
    name: str


class AllowedTools(JsonObject):
    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"] = "auto"
    tools: list[NamedTool]


class TextFormat(JsonObject):
    """What the answer's text must be; the chat's `response_format` checks it."""

    type: str = "text"
    name: str | None = None
    description: str | None = None
    schema_: Annotated[Any, Field(alias="schema")] = None
    strict: bool | None = None


class TextConfig(JsonObject):
    format: TextFormat = TextFormat()
    verbosity: Literal["medium"] = "medium"


class Reasoning(JsonObject):
    """`summary` asks for a summary: reasoning is given whole, as `reasoning_text`."""

    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None


class ResponseStreamOptions(JsonObject):
    """Nothing here is obfuscated, so there is no option that counts."""


#: fields of a chat that this API has another form for; all others are taken as they are
_OTHERWISE = frozenset(
    {
        "add_generation_prompt",
        "continue_final_message",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "messages",
        "n",
        "reasoning_effort",
        "response_format",
    }
)


class ResponsesBody(Body):
    """How to sample is said with the fields of a chat: OpenAI's `temperature` and `top_p`, and all the others."""

    input: str | Annotated[list[InputItem], Field(min_length=1, fail_fast=True)]
    model: ModelName = None
    instructions: str | None = None
    prompt: None = None
    previous_response_id: str | None = None
    store: bool = True
    stream: bool = False
    stream_options: ResponseStreamOptions = ResponseStreamOptions()
    max_output_tokens: Annotated[Integer, Field(ge=1)] | None = None
    tools: Annotated[list[FunctionTool], Field(fail_fast=True)] = Field(default_factory=list)
    tool_choice: Literal["none", "auto", "required"] | AllowedTools | NamedTool = "auto"
    parallel_tool_calls: bool = True
    text: TextConfig = TextConfig()
    reasoning: Reasoning = Reasoning()
    include: list[str] = Field(default_factory=list)
    top_logprobs: Annotated[Integer, Field(ge=0, le=20)] = 0
    truncation: Literal["disabled", "auto"] = "disabled"
    metadata: dict[str, Any] = Field(default_factory=dict)

    @property
    def wants_logprobs(self) -> bool:
        return self.top_logprobs > 0 or "message.output_text.logprobs" in self.include

    @property
    def chat_fields(self) -> dict[str, Any]:
        """The fields that mean in a chat what they mean here."""
        return {name: value for name, value in (self.model_extra or {}).items() if _is_shared(name)}

    def unknown_fields(self, prefix: str = "") -> Iterator[str]:
        yield from (name for name in super().unknown_fields(prefix) if not _is_shared(name))


def _is_shared(name: str) -> bool:
    return name in ChatCompletionBody.model_fields and name not in _OTHERWISE
