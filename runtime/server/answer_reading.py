"""How the answers to a request are read."""

from __future__ import annotations

from runtime.answer.formats import AnswerFormats
from runtime.answer.reading import AnswerReading, reading_of
from runtime.reasoning import Reasoning
from runtime.server.protocol_chat import ChatCompletionBody
from runtime.text_stream import Vocabulary


def answer_reading(formats: AnswerFormats, body: ChatCompletionBody, prompt: str) -> AnswerReading:
    """Of answers to `body`, whose prompt is `prompt`."""
    is_open = formats.reasoning is not None and _is_open(formats, body, prompt)
    return reading_of(formats, body.offer.functions, begins_in_thought=is_open, shows_thought=body.include_reasoning)


def reasoning_in(formats: AnswerFormats, body: ChatCompletionBody, prompt: str, vocabulary: Vocabulary) -> Reasoning | None:
    """What budgets and grammars must know of the thoughts in answers to `body`, whose prompt is `prompt`."""
    marks = formats.reasoning
    return None if marks is None else Reasoning.between(marks.begin, marks.end, vocabulary, _is_open(formats, body, prompt))


def _is_open(formats: AnswerFormats, body: ChatCompletionBody, prompt: str) -> bool:
    """Whether the answer begins inside thoughts: the template has begun them, or the message that it continues has."""
    assert formats.reasoning is not None
    if not body.continue_final_message:
        return formats.reasoning.is_open_after(prompt)
    content = body.messages[-1].content
    return isinstance(content, str) and formats.reasoning.is_open_in(content)
