"""How answers to a prompt are read: by which reader, and which special tokens it has to see."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from runtime.answer.formats import AnswerFormats
from runtime.answer.reader import AnswerReader, PlainReader
from runtime.answer.reasoning import ReasoningReader
from runtime.tools.functions import Functions
from runtime.tools.reading import ToolReader


@dataclass(frozen=True)
class AnswerReading:
    """`new_reader` makes one for each choice; `markers` are texts that it has to see, special tokens or not."""

    new_reader: Callable[[], AnswerReader]
    markers: tuple[str, ...] = ()


PLAIN = AnswerReading(PlainReader)


def reading_of(
    formats: AnswerFormats, functions: Functions, *, begins_in_thought: bool, shows_thought: bool = True
) -> AnswerReading:
    """Of answers that may call `functions`: calls if there are any, thoughts if the model marks them."""
    tools, reasoning = formats.tools, formats.reasoning
    reads_calls = tools is not None and bool(functions.all)

    def new_reader() -> AnswerReader:
        reader = ToolReader(tools, functions) if tools is not None and reads_calls else PlainReader()
        return (
            reader if reasoning is None else ReasoningReader(reasoning, reader, begins_in_thought, shows_thought, reads_calls)
        )

    of_tools = tools.markers if tools is not None and reads_calls else ()
    return AnswerReading(new_reader, of_tools if reasoning is None else (*of_tools, *reasoning.markers))
