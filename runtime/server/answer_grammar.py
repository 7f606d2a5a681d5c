"""To what the answers of a chat are held where it must call a tool, or may. Raises ApiError 400."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from runtime.answer.formats import AnswerFormats
from runtime.grammar import Grammar
from runtime.json_schema import UnsupportedSchema, constraining
from runtime.server.errors import invalid
from runtime.server.protocol_chat import ChatCompletionBody
from runtime.server.structured import asked_grammar
from runtime.tools.functions import Function, Functions

#: what models write between their thoughts and a call
_AFTER_THOUGHTS = r"/\n{0,2}/ "
_START = re.compile(r"^start\b", re.MULTILINE)


def answer_grammar(formats: AnswerFormats, body: ChatCompletionBody, special: Mapping[str, int]) -> Grammar | None:
    """None if an answer is free, or held to what the body asks of its form alone.

    `special` are the ids of special tokens by their texts. An answer that must have a form, and may be a call, is either.
    """
    offer, tools = body.offer, formats.tools
    if tools is None or not offer.functions.all:
        return None
    asked = None if offer.must_call else asked_grammar(body)
    if asked is None and not offer.must_call:
        return None
    space = "" if formats.reasoning is None else _AFTER_THOUGHTS
    calls = tools.lark(_constraining(offer.functions), special)
    if asked is None:
        return Grammar(f"start: {space}calls\n{calls}", "tools")
    answer = _START.sub("answer", asked.lark)
    return Grammar(f"start: answer | {space}calls\n{answer}\n{calls}", asked.field)


def _constraining(functions: Functions) -> Functions:
    return Functions([_one(function) for function in functions.all], functions.max_calls)


def _one(function: Function) -> Function:
    try:
        parameters = constraining(function.parameters, function.path)
    except UnsupportedSchema as error:
        raise invalid(str(error), error.path) from error
    assert isinstance(parameters, dict), "a request's parameters are an object"
    return replace(function, parameters=parameters)
