"""Requests of other APIs as chats: the chat's own rules judge them, in the words of the API that was asked. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pydantic import ValidationError

from runtime.request import RequestError
from runtime.server.errors import ApiError, invalid
from runtime.server.faults import explain
from runtime.server.protocol_chat import ChatCompletionBody

#: a chat's field -> the object in it that the other APIs do without
_WRAPPERS = {"tools": "function", "tool_choice": "function", "response_format": "json_schema"}

Names = Mapping[str, str]
"""A chat's field -> the field that says the same in another API."""


def as_chat(fields: Mapping[str, Any], names: Names) -> ChatCompletionBody:
    """The chat of these fields. What is wrong with it is an ApiError 400 that names the field by `names`."""
    with named(names):
        try:
            return ChatCompletionBody.model_validate(fields)
        except ValidationError as error:
            raise invalid(*explain(error, fields)) from error


@contextmanager
def named(names: Names) -> Iterator[None]:
    """An error about a field of the chat is raised again as one about the field that the client knows."""
    try:
        yield
    except ApiError as error:
        message, param = _renamed(error.detail, error.param, names)
        again = ApiError(error.status_code, message, param=param, code=error.code)
        again.headers = error.headers
        raise again from error
    except RequestError as error:
        message, param = _renamed(str(error), error.param, names)
        raise RequestError(message, param) from error


def _renamed(message: str, param: str | None, names: Names) -> tuple[str, str | None]:
    subject = param or message.partition(" ")[0]
    chat_name, _, rest = subject.partition(".")
    if chat_name not in names:
        return message, param
    wrapper = _WRAPPERS.get(chat_name)
    rest = ".".join(part for part in rest.split(".") if part != wrapper)
    name = names[chat_name]
    # Where in the messages it is says nothing to the client, who sent other ones; what else has parts is handed on as it is.
    path = f"{name}.{rest}" if rest and chat_name != "messages" else name
    return path + message[len(subject) :] if message.startswith(subject) else message, path
