"""How the answers to a prompt are read: by which reader, and which special tokens it has to see."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from runtime.answer.formats import AnswerFormats
from runtime.answer.reader import AnswerReader, PlainReader
from runtime.answer.reasoning import ReasoningReader
from runtime.reasoning import Reasoning
from runtime.server.protocol_chat import ChatCompletionBody
from runtime.text_stream import Vocabulary
from runtime.tools.reading import ToolReader


@dataclass(frozen=True)
class AnswerReading:
    """`new_reader` makes one for each choice; `markers` are texts that it has to see, special tokens or not."""

    new_reader: Callable[[], AnswerReader]
    markers: tuple[str, ...] = ()


PLAIN = AnswerReading(PlainReader)


def answer_reading(formats: AnswerFormats, body: ChatCompletionBody, prompt: str) -> AnswerReading:
    """Of answers to `body`, whose prompt is `prompt`: calls if tools are offered, thoughts if the model marks them."""
    tools, reasoning, functions = formats.tools, formats.reasoning, body.offer.functions
    reads_calls = tools is not None and bool(functions.all)
    is_open = reasoning is not None and _is_open(formats, body, prompt)

    def new_reader() -> AnswerReader:
        reader = ToolReader(tools, functions) if tools is not None and reads_calls else PlainReader()
        return reader if reasoning is None else ReasoningReader(reasoning, reader, is_open, body.include_reasoning)

    of_tools = tools.markers if tools is not None and reads_calls else ()
    return AnswerReading(new_reader, of_tools if reasoning is None else (*of_tools, *reasoning.markers))


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
