"""A message to `functions.NAME` in the commentary channel: gpt-oss (OpenAI 2025, harmony)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from runtime.answer.cursor import Cursor, Steps
from runtime.tools.events_out import EventsOut
from runtime.tools.functions import Functions, new_id
from runtime.tools.lark import calls, literal, marker
from runtime.tools.reading import read_marked, skip_after_space, stream_arguments
from runtime.tools.tool_format import WrittenCall

_START, _CHANNEL, _CONSTRAIN, _MESSAGE = "<|start|>", "<|channel|>", "<|constrain|>", "<|message|>"
_END, _CALL = "<|end|>", "<|call|>"
_RECIPIENT = re.compile(r"to=functions\.([^\s<]+)")
_LONGEST_HEADER = 512
_LONGEST_ANALYSIS = 1 << 20


class Harmony:
    """A message is a header, `<|message|>`, a text and an end. An answer's first header lacks its beginning, which the prompt
    has."""

    name = "harmony"
    markers: tuple[str, ...] = (_START, _CHANNEL, _CONSTRAIN, _MESSAGE, _END, _CALL)

    def writes(self, template: str) -> bool:
        return f"{_START}assistant to=" in template

    def new_id(self) -> str:
        return new_id()

    def written(self, calls: Sequence[WrittenCall]) -> str:
        texts = [f"{_CHANNEL}commentary to=functions.{name} {_CONSTRAIN}json{_MESSAGE}{given}{_CALL}" for name, given in calls]
        return f"{_START}assistant".join(texts)

    def read(self, cursor: Cursor, out: EventsOut, functions: Functions) -> Steps[None]:
        """Texts of all messages, on lines of their own, but of an analysis after the first, which is left out."""
        has_said = False

        def message(before: str) -> Steps[bool]:
            nonlocal has_said
            header = yield from cursor.until((_MESSAGE,), _LONGEST_HEADER)
            if header is None or not (yield from cursor.skips(_MESSAGE)):
                return False
            header = before + header
            if found := _RECIPIENT.search(header):
                yield from cursor.skip_space()
                is_call = yield from stream_arguments(cursor, out, found[1])
                yield from skip_after_space(cursor, _CALL)
                return is_call
            if f"{_CHANNEL}analysis" in header:
                yield from cursor.until((_END,), _LONGEST_ANALYSIS)
            else:
                out.text("\n" if has_said else "")
                has_said = True
            return True

        def end() -> Steps[bool]:
            yield from ()
            return True

        headers = (f"{_START}assistant", _CHANNEL, "to=functions.")
        openings = {text: lambda text=text: message(text) for text in headers}
        yield from read_marked(cursor, out, {**openings, _END: end})

    def lark(self, functions: Functions, special: Mapping[str, int]) -> str:
        start, channel, constrain, message, call = (
            marker(text, special) for text in (_START, _CHANNEL, _CONSTRAIN, _MESSAGE, _CALL)
        )
        return calls(
            functions,
            lambda function, arguments: (
                f'{channel} {literal(f"commentary to=functions.{function.name} ")} {constrain} "json" {message} {arguments}'
            ),
            between=f'{call} {start} "assistant"',
        )
