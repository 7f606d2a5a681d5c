"""Tools in requests of chats: what is offered, what is chosen, what was called."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, ValidatorFunctionWrapHandler, model_validator

from runtime.server.protocol_generation import JsonObject
from runtime.server.wording import shown
from runtime.tools.functions import NO_PARAMETERS, Function, Functions

_MAX_TOOLS = 1024
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,128}")


def _plain(name: str) -> str:
    if not _PLAIN_NAME.fullmatch(name):
        raise ValueError(f"must be 1 to 128 letters, digits or _ . : / -, got {shown(name)}")
    return name


Name = Annotated[str, AfterValidator(_plain)]


class FunctionSpec(JsonObject):
    """`parameters` is a JSON schema of an object; without it the function takes nothing."""

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    @model_validator(mode="after")
    def _takes_an_object(self) -> FunctionSpec:
        kind = (self.parameters or {}).get("type", "object")
        if kind != "object":
            raise ValueError(f"parameters.type must be 'object', got {shown(kind)}")
        return self


class Tool(JsonObject):
    """`as_sent` is what the chat template gets: what it writes is what was trained on, in this order."""

    type: Literal["function"]
    function: FunctionSpec
    _as_sent: dict[str, Any] = PrivateAttr()

    @model_validator(mode="wrap")
    @classmethod
    def _keep(cls, value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        tool = handler(value)
        tool._as_sent = value if isinstance(value, dict) else value.as_sent
        return tool

    @property
    def as_sent(self) -> dict[str, Any]:
        return self._as_sent


class ChosenFunction(JsonObject):
    name: str


class Chosen(JsonObject):
    """The one function to call; among allowed ones, one of them."""

    type: Literal["function"]
    function: ChosenFunction


class Allowed(JsonObject):
    mode: Literal["auto", "required"]
    tools: list[Chosen]


class AllowedTools(JsonObject):
    type: Literal["allowed_tools"]
    allowed_tools: Allowed


Tools = Annotated[list[Tool], Field(max_length=_MAX_TOOLS, fail_fast=True)]
ToolChoice = Literal["auto", "none", "required"] | Chosen | AllowedTools


class MadeFunction(BaseModel):
    """Arguments come back as the text that an answer had; an object passes too."""

    model_config = ConfigDict(extra="allow")

    name: str
    arguments: str | dict[str, Any] | None = None


class MadeCall(BaseModel):
    """A call of an earlier turn."""

    model_config = ConfigDict(extra="allow")

    id: str | None = None
    type: Literal["function"] = "function"
    function: MadeFunction


class Offer:
    """What a request offers the model, and whether it must take it. Raises ValueError where the fields do not agree."""

    def __init__(self, tools: Sequence[Tool] | None, choice: ToolChoice | None, parallel: bool) -> None:
        """`choice` None is "auto"."""
        tools = tools or []
        names = [tool.function.name for tool in tools]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"tools must have different names, got {shown(name)} twice")
        self.must_call = False
        if isinstance(choice, AllowedTools):
            allowed = [tool.function.name for tool in choice.allowed_tools.tools]
            for name in allowed:
                _check_offered(name, names)
            tools = [tool for tool in tools if tool.function.name in allowed]
            choice = choice.allowed_tools.mode
        if choice == "none":
            tools = []
        if choice == "required":
            if not tools:
                raise ValueError("tool_choice 'required' needs tools, got none; add tools or leave it out")
            self.must_call = True
        self.tools: list[dict[str, Any]] = [tool.as_sent for tool in tools]
        offered = [_function(tool, index) for index, tool in enumerate(tools)]
        if isinstance(choice, Chosen):
            _check_offered(choice.function.name, names)
            offered = [function for function in offered if function.name == choice.function.name]
            self.must_call = True
        self.functions = Functions(offered, 1 if isinstance(choice, Chosen) or not parallel else None)


def _check_offered(name: str, names: Sequence[str]) -> None:
    if name not in names:
        raise ValueError(f"tool_choice must name one of the tools, got {shown(name)}; add it to tools")


def _function(tool: Tool, index: int) -> Function:
    spec = tool.function
    return Function(
        spec.name, NO_PARAMETERS if spec.parameters is None else spec.parameters, f"tools.{index}.function.parameters"
    )
