"""docs/adding.md, "A tool format": a toy format is recognized, read and held to its grammar as the others are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import pytest

from runtime.answer.cursor import Cursor, Steps
from runtime.chat import ChatTemplate
from runtime.tools import formats
from runtime.tools.events_out import EventsOut
from runtime.tools.functions import Functions, new_id
from runtime.tools.json_calls import as_object
from runtime.tools.lark import calls, json_object, marker
from runtime.tools.reading import read_calls, read_marked
from runtime.tools.tool_format import WrittenCall
from tests.house.recipes import files_of
from tests.server.conftest import running
from tests.server.tool_requests import answer, streamed
from tests.server.tool_requests import calls as calls_of

TEMPLATE = (
    "{% if tools %}<|system|>{{ tools | tojson }} Call with !call.<|end|>{% endif %}"
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}<|assistant|>"
)
TEXT = 'Wait. !call{"name": "get_weather", "arguments": {"city": "Rome"}}'


class Toy:
    name = "toy"
    markers: tuple[str, ...] = ("!call",)

    def writes(self, template: str) -> bool:
        return "!call" in template

    def new_id(self) -> str:
        return new_id()

    def written(self, calls: Sequence[WrittenCall]) -> str:
        return "".join("!call" + as_object(*call) for call in calls)

    def read(self, cursor: Cursor, out: EventsOut, functions: Functions) -> Steps[None]:
        yield from read_marked(cursor, out, {"!call": partial(read_calls, cursor, out, lambda name: True)})

    def lark(self, functions: Functions, special: Mapping[str, int]) -> str:
        return calls(functions, lambda f, arguments: f"{marker('!call', special)} {json_object(f, arguments)}", between='""')


def test_the_recipe_is_two_files() -> None:
    assert files_of("A tool format") == ["runtime/tools/NAME.py", "runtime/tools/formats.py"]


def test_it_is_found_read_and_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "FORMATS", (Toy(), *formats.FORMATS))
    assert ChatTemplate(TEMPLATE).formats.names == ("toy", "none")
    with running(speak=lambda prompt: TEXT, template=TEMPLATE) as served:
        for ask in (answer, streamed):
            choice = ask(served)
            assert (choice["message"]["content"], calls_of(choice)) == ("Wait.", [("get_weather", {"city": "Rome"})])
        assert calls_of(answer(served, tool_choice="required", parallel_tool_calls=False))
