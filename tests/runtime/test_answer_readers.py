"""Readers of answers: however a text is cut into pieces, they find the same; what a family writes, its reader reads."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runtime.answer.events import AnswerEvent, CallDelta, CallStart, ReasoningDelta, TextDelta
from runtime.answer.reader import AnswerReader, PlainReader
from runtime.answer.reasoning import FORMATS as REASONING_FORMATS
from runtime.answer.reasoning import ReasoningReader
from runtime.answer.whole import Answer
from runtime.tools.formats import FORMATS, named
from runtime.tools.functions import Function, Functions
from runtime.tools.reading import ToolReader
from runtime.tools.tool_format import ToolFormat

SCHEMA = {
    "type": "object",
    "properties": {
        "text": {"type": "string"},
        "count": {"type": "integer"},
        "flag": {"type": "boolean"},
        "more": {"type": "object"},
        "all": {"type": "array"},
        "nullable": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    },
}
FUNCTIONS = Functions([Function("look_up", SCHEMA), Function("now")])

characters = st.text("ab <>|{}[]\"'\\\n\t`:,;/=你😀_", max_size=20)
#: between tags a value has no place for a line break at its ends, nor for the end of its tag
words = characters.map(lambda text: text.strip().replace("</", "<"))
arguments = st.fixed_dictionaries(
    {},
    optional={
        "text": words,
        "count": st.integers(),
        "flag": st.booleans(),
        "more": st.dictionaries(st.sampled_from(["a", "b"]), characters | st.integers(), max_size=2),
        "all": st.lists(characters | st.floats(allow_nan=False, allow_infinity=False), max_size=2),
        "nullable": st.none() | words.filter(lambda text: text not in ("null", "None")),
    },
)
made_calls = st.lists(st.tuples(st.just("look_up"), arguments) | st.tuples(st.just("now"), st.just({})), min_size=1, max_size=3)


def pieces(text: str, cuts: Sequence[int]) -> Iterator[str]:
    places = sorted({cut % (len(text) + 1) for cut in cuts} | {0, len(text)})
    yield from (text[a:b] for a, b in itertools.pairwise(places))


def events(reader: AnswerReader, text: str, cuts: Sequence[int] = ()) -> list[AnswerEvent]:
    found = [event for piece in pieces(text, cuts) for event in reader.push(piece)]
    return found + reader.flush()


def read(reader: AnswerReader, text: str, cuts: Sequence[int] = ()) -> tuple[str, str | None, list[tuple[str, str]]]:
    """Text, thoughts, calls."""
    found = events(reader, text, cuts)
    check_order(found)
    answer = Answer.of(found)
    return answer.text, answer.reasoning, [(call.name, call.arguments) for call in answer.calls]


def check_order(found: Sequence[AnswerEvent]) -> None:
    """Calls count from 0, a call's pieces come after its start and before the next; nothing is empty."""
    num_calls = 0
    for event in found:
        match event:
            case CallStart(index, id, name):
                assert index == num_calls and id and name
                num_calls += 1
            case CallDelta(index, piece):
                assert index == num_calls - 1 and piece
            case TextDelta(text) | ReasoningDelta(text):
                assert text


def tool_reader(format: ToolFormat, functions: Functions = FUNCTIONS) -> ToolReader:
    return ToolReader(format, functions)


by_format = pytest.mark.parametrize("format", FORMATS, ids=lambda format: str(format.name))


@by_format
@settings(max_examples=60)
@given(calls=made_calls, cuts=st.lists(st.integers(0, 400), max_size=12))
def test_what_a_family_writes_its_reader_reads(format: ToolFormat, calls: list[tuple[str, Any]], cuts: list[int]) -> None:
    text = format.written([(name, json.dumps(given, ensure_ascii=False)) for name, given in calls])
    content, _, found = read(tool_reader(format), text, cuts)
    assert [(name, json.loads(given)) for name, given in found] == calls
    assert content == ""


def fragments(format: ToolFormat) -> st.SearchStrategy[str]:
    """Texts of a family's words in any order: what models write when they go wrong."""
    example = format.written([("look_up", '{"text": "a"}'), ("now", "{}")])
    known = [*format.markers, example, example[: len(example) // 2], example[len(example) // 3 :]]
    others = ['{"name": "now"', '"arguments": {', "}", "```json\n", "```", "<function=now>", "<parameter=text>", " ", "\n", "["]
    return st.lists(st.sampled_from([*known, *others]) | characters, max_size=6).map("".join)


@by_format
@settings(max_examples=60)
@given(data=st.data(), cuts=st.lists(st.integers(0, 400), max_size=20))
def test_cuts_change_nothing(format: ToolFormat, data: st.DataObject, cuts: list[int]) -> None:
    text = data.draw(fragments(format))
    whole = read(tool_reader(format), text)
    assert read(tool_reader(format), text, cuts) == whole
    assert read(tool_reader(format), text, range(len(text))) == whole


@by_format
@settings(max_examples=30)
@given(text=characters)
def test_a_text_stays_a_text(format: ToolFormat, text: str) -> None:
    content, _, calls = read(tool_reader(format), text, range(len(text)))
    assert not calls and content == text


@pytest.mark.parametrize("format", REASONING_FORMATS, ids=lambda format: str(format.name))
@settings(max_examples=60)
@given(
    parts=st.lists(st.sampled_from(["BEGIN", "END", " ", "\n", "<", "["]) | characters, max_size=6),
    is_open=st.booleans(),
    cuts=st.lists(st.integers(0, 100), max_size=12),
)
@example(parts=["BEGIN", "\n", "a", "\n", "END", "\n\n", "b"], is_open=False, cuts=[])
def test_thoughts_whatever_the_cuts(format: Any, parts: list[str], is_open: bool, cuts: list[int]) -> None:
    text = "".join({"BEGIN": format.begin, "END": format.end}.get(part, part) for part in parts)
    whole = read(ReasoningReader(format, PlainReader(), is_open), text)
    for split in (cuts, range(len(text))):
        assert read(ReasoningReader(format, PlainReader(), is_open), text, split) == whole
    kept = (whole[1] or "") + whole[0]
    assert [c for c in text.replace(format.begin, "").replace(format.end, "") if not c.isspace()] == [
        c for c in kept.replace(format.begin, "").replace(format.end, "") if not c.isspace()
    ], "no character is lost or added"


@pytest.mark.parametrize(
    ("text", "thoughts", "content"),
    [
        ("<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes.", "Hm.", "Yes."),
        ("<|channel|>final<|message|>Yes. <|end|>", None, "Yes. <|end|>"),
        ("<|channel|>analysis<|message|>Hm.<|end|><|start|>assist", "Hm.<|end|><|start|>assist", ""),
        ("<|channel|>finally", None, "<|channel|>finally"),
    ],
)
def test_channels_of_harmony(text: str, thoughts: str | None, content: str) -> None:
    (harmony,) = (format for format in REASONING_FORMATS if format.name == "harmony")
    for cuts in ((), range(len(text))):
        assert read(ReasoningReader(harmony, PlainReader(), is_open=False), text, cuts) == (content, thoughts, [])


THOUGHT = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
NOW = "<|channel|>commentary to=functions.now <|constrain|>json<|message|>{}<|call|>"


@pytest.mark.parametrize(
    ("text", "thoughts", "content", "names"),
    [
        (THOUGHT + NOW, "Hm.", "", ["now"]),
        (THOUGHT + " to=functions.now<|channel|>commentary json<|message|>{}<|call|>", "Hm.", "", ["now"]),
        (" to=functions.now<|channel|>commentary json<|message|>{}", None, "", ["now"]),
        (NOW, None, "", ["now"]),
        (f"{THOUGHT}<|channel|>commentary<|message|>I look.<|end|><|start|>assistant{THOUGHT}{NOW}", "Hm.", "I look.", ["now"]),
        (f"{THOUGHT}<|channel|>final<|message|>to=functions.now", "Hm.", "to=functions.now", []),
        (
            f"{THOUGHT}<|channel|>commentary<|message|>Wait.<|end|><|start|>assistant<|channel|>final<|message|>Yes.",
            "Hm.",
            "Wait.\nYes.",
            [],
        ),
        (NOW.replace("{}", "no"), None, NOW.replace("{}", "no"), []),
    ],
)
def test_calls_of_harmony(text: str, thoughts: str | None, content: str, names: list[str]) -> None:
    harmony = named("harmony")
    (channels,) = (format for format in REASONING_FORMATS if format.name == "harmony")
    assert harmony is not None
    for cuts in ((), range(len(text))):
        reader = ReasoningReader(channels, tool_reader(harmony), is_open=False, may_call=True)
        found = read(reader, text, cuts)
        assert (found[1], found[0], [name for name, _ in found[2]]) == (thoughts, content, names)


@settings(max_examples=100)
@given(thoughts=words, said=words, calls=made_calls, cuts=st.lists(st.integers(0, 400), max_size=12))
def test_thoughts_text_and_calls(thoughts: str, said: str, calls: list[tuple[str, Any]], cuts: list[int]) -> None:
    hermes = named("hermes")
    assert hermes is not None
    written = hermes.written([(name, json.dumps(given)) for name, given in calls])
    reader = ReasoningReader(REASONING_FORMATS[0], tool_reader(hermes), is_open=False)
    content, reasoning, found = read(reader, f"<think>\n{thoughts}\n</think>\n\n{said}\n{written}", cuts)
    assert (content, reasoning) == (said, thoughts or None)
    assert [(name, json.loads(given)) for name, given in found] == calls


@by_format
def test_nothing_is_read_after_the_only_call(format: ToolFormat) -> None:
    text = format.written([("look_up", '{"text": "a"}'), ("now", "{}")])
    reader = tool_reader(format, Functions(FUNCTIONS.all, 1))
    num_read = 0
    for character in text:
        reader.push(character)
        num_read += 1
        if reader.is_complete:
            break
    assert reader.num_calls == 1 and num_read < len(text)
    assert read(tool_reader(format, Functions(FUNCTIONS.all, 1)), text)[2] == [("look_up", '{"text": "a"}')]


@by_format
def test_arguments_come_while_they_are_written(format: ToolFormat) -> None:
    text = format.written([("look_up", json.dumps({"text": "word " * 40}))])
    found = events(tool_reader(format), text, range(len(text)))
    assert len([event for event in found if isinstance(event, CallDelta)]) > 100


#: what public models have been seen to write
SEEN: dict[str, tuple[str, str, str, list[tuple[str, str]]]] = {
    "mistral, a space": ("mistral", '[TOOL_CALLS] [{"name": "now", "arguments": {}}]', "", [("now", "{}")]),
    "mistral, ids": (
        "mistral",
        '[TOOL_CALLS][{"name": "now", "arguments": {}, "id": "a1B2c3D4e"}, {"arguments": {}, "name": "now"}]',
        "",
        [("now", "{}"), ("now", "{}")],
    ),
    "mistral, text before": ("mistral", 'Well. [TOOL_CALLS][{"name": "now", "arguments": {}}]', "Well.", [("now", "{}")]),
    "mistral, no calls": ("mistral", "[TOOL_CALLS] I cannot.", "[TOOL_CALLS] I cannot.", []),
    "v11, an id": ("mistral-v11", '[TOOL_CALLS]now[CALL_ID]a1B2c3D4e[ARGS]{"a": 1}', "", [("now", '{"a": 1}')]),
    "v11, no marker of arguments": ("mistral-v11", "[TOOL_CALLS]now{}", "", [("now", "{}")]),
    "v11, an unknown function": ("mistral-v11", "[TOOL_CALLS]other[ARGS]{}", "", [("other", "{}")]),
    "llama, a type": ("llama3", '{"type": "function", "name": "now", "parameters": {}}', "", [("now", "{}")]),
    "llama, a tag": ("llama3", '<|python_tag|>{"name": "now", "parameters": {}}', "", [("now", "{}")]),
    "llama, Python": ("llama3", "<|python_tag|>print(1)", "<|python_tag|>print(1)", []),
    "llama, two": (
        "llama3",
        '{"name": "now", "parameters": {}}; {"name": "now", "parameters": {}}',
        "",
        [("now", "{}")] * 2,
    ),
    "llama, an answer that is JSON": ("llama3", '{"name": "Ada", "age": 36}', '{"name": "Ada", "age": 36}', []),
    "deepseek, v3": (
        "deepseek",
        "Hm.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```<｜tool▁call▁end｜>"  # noqa: RUF001
        "<｜tool▁calls▁end｜>",  # noqa: RUF001
        "Hm.",
        [("now", "{}")],
    ),
    "deepseek, v3.1 read by either": (
        "deepseek",
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",  # noqa: RUF001
        "",
        [("now", "{}")],
    ),
    "qwen, no first marker": ("qwen-xml", "<function=now>\n</function>\n</tool_call>", "", [("now", "{}")]),
    "qwen, on one line": (
        "qwen-xml",
        "<tool_call><function=look_up><parameter=text>a</parameter></function></tool_call>",
        "",
        [("look_up", '{"text": "a"}')],
    ),
    "qwen, Python's words": (
        "qwen-xml",
        "<tool_call>\n<function=look_up>\n<parameter=flag>\nTrue\n</parameter>\n</function>\n</tool_call>",
        "",
        [("look_up", '{"flag": true}')],
    ),
    "qwen, a number for a text": (
        "qwen-xml",
        "<tool_call>\n<function=look_up>\n<parameter=text>\n42\n</parameter>\n</function>\n</tool_call>",
        "",
        [("look_up", '{"text": "42"}')],
    ),
    "qwen, a text for a number": (
        "qwen-xml",
        "<tool_call>\n<function=look_up>\n<parameter=count>\nmany\n</parameter>\n</function>\n</tool_call>",
        "",
        [("look_up", '{"count": "many"}')],
    ),
    "qwen, JSON": ("qwen-xml", '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>', "", [("now", "{}")]),
    "hermes, a list without markers": (
        "hermes",
        '[{"name": "now", "arguments": {}}, {"name": "now", "arguments": {}}]',
        "",
        [("now", "{}")] * 2,
    ),
    "hermes, a bracket that does not fit": (
        "hermes",
        '<tool_call>{"name": "now", "arguments": {"a": [1}}</tool_call>',
        "}}</tool_call>",
        [("now", '{"a": [1')],
    ),
}


@pytest.mark.parametrize("name", SEEN)
def test_what_models_have_written(name: str) -> None:
    format_name, text, content, calls = SEEN[name]
    format = named(format_name)
    assert format is not None
    for cuts in ((), range(len(text))):
        assert read(tool_reader(format), text, cuts) == (content, None, calls)


@by_format
def test_ids(format: ToolFormat) -> None:
    text = format.written([("now", "{}")] * 3)
    ids = [event.id for event in events(tool_reader(format), text) if isinstance(event, CallStart)]
    assert len(set(ids)) == 3
    assert all(len(id) == 9 and id.isalnum() if format.name.startswith("mistral") else id.startswith("call_") for id in ids)
