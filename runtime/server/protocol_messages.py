"""/v1/messages and /v1/messages/count_tokens: Anthropic's API, what clients send and what is answered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Discriminator, Field, Tag, model_validator

from runtime.server.protocol_chat import ChatCompletionBody
from runtime.server.protocol_generation import Body, Integer, JsonObject, ModelName, Said, Usage
from runtime.server.wording import shown


class TextBlock(JsonObject):
    type: Literal["text"]
    text: str


class ThinkingBlock(JsonObject):
    """As it was answered; its signature is not looked at, for nobody signs here."""

    type: Literal["thinking"]
    thinking: str


class RedactedThinkingBlock(JsonObject):
    """Another server's: it cannot be read, and is left out."""

    type: Literal["redacted_thinking"]


class ToolUseBlock(JsonObject):
    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]


class OtherBlock(JsonObject):
    """A block that no model here can read."""

    @model_validator(mode="before")
    @classmethod
    def _refuse(cls, value: Any) -> Any:
        kind = value.get("type") if isinstance(value, dict) else value
        raise ValueError(f"must be a block of text, tool use or tool result, got {shown(kind)}: only text is supported here")


def _kind(block: object) -> str:
    kind = block.get("type") if isinstance(block, dict) else getattr(block, "type", None)
    return kind if kind in ("text", "thinking", "redacted_thinking", "tool_use", "tool_result") else "other"


def _kind_of_text(block: object) -> str:
    return "text" if _kind(block) == "text" else "other"


TextBlocks = Annotated[
    list[Annotated[Annotated[TextBlock, Tag("text")] | Annotated[OtherBlock, Tag("other")], Discriminator(_kind_of_text)]],
    Field(fail_fast=True),
]
Text = str | TextBlocks


class ToolResultBlock(JsonObject):
    type: Literal["tool_result"]
    tool_use_id: str
    content: Text = ""
    is_error: bool = False


Block = Annotated[
    Annotated[TextBlock, Tag("text")]
    | Annotated[ThinkingBlock, Tag("thinking")]
    | Annotated[RedactedThinkingBlock, Tag("redacted_thinking")]
    | Annotated[ToolUseBlock, Tag("tool_use")]
    | Annotated[ToolResultBlock, Tag("tool_result")]
    | Annotated[OtherBlock, Tag("other")],
    Discriminator(_kind),
]


class MessageTurn(JsonObject):
    role: Literal["user", "assistant", "system"]
    content: str | Annotated[list[Block], Field(fail_fast=True)]

    @model_validator(mode="after")
    def _blocks_suit_the_role(self) -> MessageTurn:
        strange = (ToolResultBlock,) if self.role == "assistant" else (ToolUseBlock, ThinkingBlock, RedactedThinkingBlock)
        for block in self.content:
            if isinstance(block, strange):
                raise ValueError(f"of the role {self.role!r} must not hold a block of type {block.type!r}, got one")
        return self


def _only_custom(kind: str) -> str:
    if kind != "custom":
        raise ValueError(f"must be 'custom', got {shown(kind)}: this server runs no tools of its own")
    return kind


class Tool(JsonObject):
    type: Annotated[str, AfterValidator(_only_custom)] = "custom"
    name: str
    description: str | None = None
    input_schema: dict[str, Any]
    strict: bool | None = None


class ToolChoice(JsonObject):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool = False

    @model_validator(mode="after")
    def _tool_has_a_name(self) -> ToolChoice:
        if self.type == "tool" and self.name is None:
            raise ValueError("must have a name, got none: it is of type 'tool'")
        return self


class Thinking(JsonObject):
    type: Literal["enabled", "disabled", "adaptive", "between_tools"]
    budget_tokens: Annotated[Integer, Field(ge=1)] | None = None


class OutputFormat(JsonObject):
    type: Literal["json_schema"]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]


class OutputConfig(JsonObject):
    effort: str | None = None
    format: OutputFormat | None = None


#: fields of a chat that this API has another form for; all others are taken as they are
_OTHERWISE = frozenset(
    {
        "add_generation_prompt",
        "continue_final_message",
        "logprobs",
        "max_completion_tokens",
        "messages",
        "n",
        "parallel_tool_calls",
        "reasoning_effort",
        "response_format",
        "stop",
        "stream_options",
        "top_logprobs",
    }
)


class CountTokensBody(Body):
    """What makes the prompt."""

    messages: Annotated[list[MessageTurn], Field(min_length=1, fail_fast=True)]
    model: ModelName = None
    system: Text | None = None
    tools: Annotated[list[Tool], Field(fail_fast=True)] = Field(default_factory=list)
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig = OutputConfig()
    output_format: OutputFormat | None = None

    @property
    def chat_fields(self) -> dict[str, Any]:
        """The fields that mean in a chat what they mean here."""
        return {name: value for name, value in (self.model_extra or {}).items() if _is_shared(name)}

    def unknown_fields(self, prefix: str = "") -> Iterator[str]:
        yield from (name for name in super().unknown_fields(prefix) if not _is_shared(name))


class MessagesBody(CountTokensBody):
    """`temperature`, `top_p`, `top_k` and the other ways to sample are said with the fields of a chat."""

    max_tokens: Annotated[Integer, Field(ge=1)]
    stop_sequences: list[str] = Field(default_factory=list)
    stream: bool = False
    metadata: JsonObject = JsonObject()


class TextAnswer(Said):
    type: Literal["text"] = "text"
    text: str


class ThinkingAnswer(Said):
    type: Literal["thinking"] = "thinking"
    thinking: str
    signature: str


class ToolUseAnswer(Said):
    type: Literal["tool_use"] = "tool_use"
    id: str
    name: str
    input: dict[str, Any]


class ThinkingDetails(Said):
    thinking_tokens: int


class MessageUsage(Said):
    """`input_tokens` leaves out what was read from the cache, as Anthropic counts."""

    input_tokens: int
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int
    output_tokens: int
    output_tokens_details: ThinkingDetails

    @classmethod
    def of(cls, usage: Usage) -> MessageUsage:
        cached = usage.prompt_tokens_details.cached_tokens
        return cls(
            input_tokens=usage.prompt_tokens - cached,
            cache_read_input_tokens=cached,
            output_tokens=usage.completion_tokens,
            output_tokens_details=ThinkingDetails(thinking_tokens=usage.completion_tokens_details.reasoning_tokens),
        )


class AnsweredMessage(Said):
    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[TextAnswer | ThinkingAnswer | ToolUseAnswer]
    stop_reason: str | None = None
    stop_sequence: str | None = None
    usage: MessageUsage


class MessageEvent(BaseModel):
    """One event of a stream; which fields it has depends on its type."""

    type: str
    message: AnsweredMessage | None = None
    index: int | None = None
    content_block: TextAnswer | ThinkingAnswer | ToolUseAnswer | None = None
    delta: Mapping[str, str | None] | None = None
    usage: MessageUsage | None = None


class TokenCount(BaseModel):
    input_tokens: int


def _is_shared(name: str) -> bool:
    return name in ChatCompletionBody.model_fields and name not in _OTHERWISE
