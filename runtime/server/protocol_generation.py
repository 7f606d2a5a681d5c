"""Fields that both generation endpoints share, and the usage they report."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticKnownError

from runtime.server.unserved import HARMLESS, REFUSED
from runtime.server.wording import listed, shown

logger = logging.getLogger(__name__)


def _no_bool_as_integer(value: object) -> object:
    if isinstance(value, bool):
        raise PydanticKnownError("int_type")
    return value


def _no_bool_as_number(value: object) -> object:
    if isinstance(value, bool):
        raise PydanticKnownError("float_type")
    return value


def _as_list(value: object) -> object:
    """One stop string stands for a list of it; an empty one, which some clients send for none, for an empty list."""
    return ([value] if value else []) if isinstance(value, str) else value


_LARGEST = 2**31 - 1
_LEAST_ANSWER = 16
Integer = Annotated[int, BeforeValidator(_no_bool_as_integer)]
Number = Annotated[float, BeforeValidator(_no_bool_as_number)]
TokenId = Annotated[int, Field(strict=True, ge=0, le=_LARGEST)]
#: Keys of JSON objects are strings.
TokenKey = Annotated[int, Field(ge=0, le=_LARGEST)]
#: Beyond that, products with fp32 logits overflow.
RepetitionPenalty = Annotated[Number, Field(ge=1e-3, le=1e3)]
#: Clients that must send a name but know none send an empty one.
ModelName = Annotated[str | None, AfterValidator(lambda name: name or None)]


class JsonObject(BaseModel):
    """A part of a request. Unknown fields are accepted."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, value: object) -> object:
        # Clients send null for what they leave open.
        return {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else value

    def unknown_fields(self, prefix: str = "") -> Iterator[str]:
        """Paths of what was accepted without being understood."""
        yield from (prefix + name for name in self.model_extra or {} if name not in HARMLESS and name not in REFUSED)
        for name in self.model_fields_set:
            value = getattr(self, name, None)
            if isinstance(value, JsonObject):
                yield from value.unknown_fields(f"{prefix}{name}.")


class Body(JsonObject):
    """A request body. Fields that ask for what is not served are refused."""

    @model_validator(mode="after")
    def _refuse_what_is_not_served(self) -> Body:
        for name, value in (self.model_extra or {}).items():
            refusal = REFUSED.get(name)
            if refusal is not None and value not in refusal.passes:
                raise ValueError(f"{name} is not supported here, got {shown(value)}: {refusal.reason}")
        return self

    def log_unknown_fields(self) -> None:
        """Name in the log what is ignored. Clients choose names, and how many."""
        if unknown := list(self.unknown_fields()):
            logger.warning("%s: %d unknown fields are ignored: %s", type(self).__name__, len(unknown), listed(unknown))


class StreamOptions(JsonObject):
    include_usage: bool = False
    continuous_usage_stats: bool = False


class JsonSchemaFormat(JsonObject):
    """`strict` changes nothing: an answer is always held to the schema. Name and description are for the client."""

    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | bool | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(JsonObject):
    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: JsonSchemaFormat | None = None
    schema_: dict[str, Any] | bool | None = Field(None, alias="schema")


#: Lists, objects and texts of which one is wanted are not empty.
Pattern = Annotated[str, Field(min_length=1)]
Choices = Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1, fail_fast=True)]
JsonSchema = dict[str, Any] | bool | str


class StructuredOutputs(JsonObject):
    """vLLM's field: one of the first five."""

    json_: JsonSchema | None = Field(None, alias="json")
    json_object: bool = False
    regex: Pattern | None = None
    choice: Choices | None = None
    grammar: Pattern | None = None
    whitespace_pattern: str | None = None
    disable_any_whitespace: bool = False
    disable_fallback: bool = False
    disable_additional_properties: bool = False

    @model_validator(mode="after")
    def _refuse_tags(self) -> StructuredOutputs:
        if tag := (self.model_extra or {}).get("structural_tag"):
            raise ValueError(f"structural_tag is not supported here, got {shown(tag)}: use grammar")
        return self


class GenerationBody(Body):
    """How to sample and how to answer. None everywhere means: the model's default, then OpenAI's."""

    model: ModelName = None
    n: Annotated[Integer, Field(ge=1, le=128)] = 1
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    max_tokens: Integer | None = None
    min_tokens: Annotated[Integer, Field(le=_LARGEST)] = 0
    temperature: Number | None = None
    top_p: Number | None = None
    top_k: Annotated[Integer, Field(le=_LARGEST)] | None = None
    min_p: Number | None = None
    seed: Integer | None = None
    presence_penalty: Number | None = None
    frequency_penalty: Number | None = None
    repetition_penalty: RepetitionPenalty | None = None
    logit_bias: Annotated[dict[TokenKey, Annotated[Number, Field(ge=-100, le=100)]], Field(max_length=1024)] | None = None
    stop: Annotated[
        Annotated[list[Annotated[str, Field(min_length=1, max_length=256)]], Field(max_length=32)] | None,
        BeforeValidator(_as_list),
    ] = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=1024)] | None = None
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    truncate_prompt_tokens: Annotated[Integer, Field(ge=-1)] | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: JsonSchema | None = None
    guided_regex: Pattern | None = None
    guided_choice: Choices | None = None
    guided_grammar: Pattern | None = None
    guided_whitespace_pattern: str | None = None
    json_schema: JsonSchema | None = None
    regex: Pattern | None = None
    grammar: Pattern | None = None
    ebnf: Pattern | None = None
    thinking_token_budget: Annotated[Integer, Field(ge=-1, le=_LARGEST)] | None = None
    priority: Annotated[Integer, Field(ge=-(2**31), le=_LARGEST)] = 0
    cache_salt: Annotated[str, Field(max_length=256)] = ""
    user: str | None = None

    @model_validator(mode="after")
    def _fields_agree(self) -> GenerationBody:
        if (self.stream_options.include_usage or self.stream_options.continuous_usage_stats) and not self.stream:
            raise ValueError("stream_options needs stream to be true")
        if self.truncate_prompt_tokens == 0:
            raise ValueError("truncate_prompt_tokens must be at least 1, or -1 for the model's limit; got 0")
        return self

    @property
    def answer_limit(self) -> int | None:
        """How many tokens the answer may have; None leaves it open."""
        return self.max_tokens

    @property
    def num_answer_tokens(self) -> int:
        """What a prompt that is cut to the model's context leaves for the answer, in tokens."""
        return _LEAST_ANSWER if self.answer_limit is None else self.answer_limit


class Said(BaseModel):
    """A part of an answer of which every field is said, also those that have their default."""

    def model_post_init(self, _: Any) -> None:
        self.model_fields_set.update(type(self).model_fields)


class PromptTokensDetails(BaseModel):
    cached_tokens: int


class CompletionTokensDetails(BaseModel):
    reasoning_tokens: int


class Usage(BaseModel):
    """Counts over all choices; a prompt counts once, however many choices it has."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails

    @classmethod
    def of(
        cls, num_prompt_tokens: int, num_completion_tokens: int, num_cached_tokens: int, num_reasoning_tokens: int = 0
    ) -> Usage:
        return cls(
            prompt_tokens=num_prompt_tokens,
            completion_tokens=num_completion_tokens,
            total_tokens=num_prompt_tokens + num_completion_tokens,
            prompt_tokens_details=PromptTokensDetails(cached_tokens=num_cached_tokens),
            completion_tokens_details=CompletionTokensDetails(reasoning_tokens=num_reasoning_tokens),
        )


def to_json(response: BaseModel) -> str:
    """The response with the fields that were set, nulls among them: absent and null differ to clients."""
    return response.model_dump_json(exclude_unset=True)
