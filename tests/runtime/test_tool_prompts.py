"""Prompts with tools, calls, results and thoughts against transformers' own, for our templates and those of packages."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import render_jinja_template

from runtime.answer.formats import AnswerFormats
from runtime.chat import ChatTemplate
from runtime.messages import ABSENT
from tests.runtime.template_styles import CHATML, GEMMA2
from tests.runtime.test_as_transformers import SPECIAL, rendered
from tests.runtime.tool_template_styles import TOOL_STYLES

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Wie ist's? <b>好</b>",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "description": 'A "city"'}, "days": {"type": "integer"}},
                "required": ["city"],
            },
        },
    },
    {
        "type": "function",
        "function": {"name": "now", "description": "The time", "parameters": {"type": "object", "properties": {}}},
    },
]
USER = {"role": "user", "content": "How is it in Rome?"}
NEXT = {"role": "user", "content": "And in Bern?"}
SYSTEM = {"role": "system", "content": "Be brief."}
REPLY = {"role": "assistant", "content": "Sunny."}


def call(name: str, **arguments: Any) -> dict[str, Any]:
    """A call as clients send it back, with an id that any template takes."""
    id = f"{name.replace('_', '')}000000000"[:9]
    return {"id": id, "type": "function", "function": {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}}


def result(of: Mapping[str, Any], content: str = "21 °C") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": of["id"], "content": content}


WEATHER = call("get_weather", city='R"ö\\me\n', days=2)
NOW = call("now")
#: what the openai client gives back of an answer
DUMPED = {"refusal": None, "annotations": [], "audio": None, "function_call": None}
CALLS = {"role": "assistant", "content": None, "tool_calls": [WEATHER], **DUMPED}
CHATS: dict[str, list[dict[str, Any]]] = {
    "a question": [USER],
    "a system message": [SYSTEM, USER],
    "turns": [SYSTEM, USER, REPLY, NEXT],
    "a call": [USER, CALLS, result(WEATHER)],
    "a call, answered": [SYSTEM, USER, CALLS, result(WEATHER), REPLY, NEXT],
    "a call with a text": [USER, CALLS | {"content": "Let me see."}, result(WEATHER)],
    "two calls": [USER, CALLS | {"tool_calls": [WEATHER, NOW]}, result(WEATHER), result(NOW, "12:00"), REPLY, NEXT],
    "a call after a call": [USER, CALLS, result(WEATHER), CALLS | {"tool_calls": [NOW]}, result(NOW, "12:00")],
    "thoughts and a call": [USER, CALLS | {"reasoning_content": "Look it up."}, result(WEATHER)],
    "thoughts of an earlier turn": [USER, REPLY | {"reasoning_content": "I know."}, NEXT],
    "thoughts of a reply": [USER, REPLY | {"reasoning_content": "I know."}],
}
ENDS: Sequence[dict[str, Any]] = (
    {},
    {"add_generation_prompt": True},
    {"add_generation_prompt": True, "enable_thinking": False},
)


def meant(chat: Sequence[Mapping[str, Any]], arguments: str, content: object) -> list[dict[str, Any]]:
    """The chat as transformers' users write it for a template that reads arguments as "object" or "text"."""
    messages = []
    for message in chat:
        kept = {name: value for name, value in message.items() if name == "content" or (value is not None and value != [])}
        if "reasoning_content" in kept:
            kept |= {"thinking": kept["reasoning_content"]}
        if "tool_calls" in kept and arguments == "object":
            kept["tool_calls"] = [
                {**one, "function": {**one["function"], "arguments": json.loads(one["function"]["arguments"])}}
                for one in kept["tool_calls"]
            ]
        if kept.get("content") is None:
            kept |= {"content": content}
            if content is ABSENT:
                del kept["content"]
        messages.append(kept)
    return messages


def theirs(
    source: str, chat: Sequence[Mapping[str, Any]], arguments: str, content: object, tools: Any, **options: Any
) -> str | None:
    """Transformers' prompt. Its tokenizers leave nulls out; what templates were written for, nulls, is below them."""
    messages = meant(chat, arguments, content)
    if content is not None:
        return rendered(lambda: tokenizer(source).apply_chat_template(messages, tools=tools, tokenize=False, **options))
    options = {"add_generation_prompt": False, **options}
    return rendered(
        lambda: render_jinja_template(conversations=[messages], tools=tools, chat_template=source, **options, **SPECIAL)[0][0]
    )


@cache
def tokenizer(source: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), chat_template=source, **SPECIAL)


def ours(source: str, chat: Sequence[Mapping[str, Any]], tools: Any, **options: Any) -> str | None:
    template = compiled(source)
    generates = options.pop("add_generation_prompt", False)
    variables = options if tools is None else {**options, "tools": tools}
    return rendered(lambda: template.render(chat, add_generation_prompt=generates, variables=variables))


@cache
def compiled(source: str) -> ChatTemplate:
    return ChatTemplate(source, **SPECIAL)


#: how a call may be written for transformers, the canonical way first
FORMS = [(kind, content) for content in (ABSENT, None, "") for kind in ("object", "text")]
#: how each of our templates reads a call, which nothing but its text says
TEXT_AND_NONE = {"deepseek-v3", "deepseek-r1", "deepseek-v3.1"}
FORMATS = {
    "hermes": ("hermes", "none"),
    "qwen3": ("hermes", "think"),
    "qwen-coder": ("qwen-xml", "none"),
    "llama": ("llama3", "none"),
    "mistral": ("mistral", "none"),
    "mistral-v11": ("mistral-v11", "mistral"),
    "deepseek-v3": ("deepseek", "none"),
    "deepseek-r1": ("deepseek", "think"),
    "deepseek-v3.1": ("deepseek-v3.1", "think"),
    "granite": ("hermes", "none"),
    "phi4": ("none", "thinking"),
    "command": ("none", "cohere"),
}


@pytest.mark.parametrize("tools", [None, TOOLS], ids=["plain", "tools"])
@pytest.mark.parametrize("name", TOOL_STYLES)
def test_styles(name: str, tools: Any) -> None:
    source = TOOL_STYLES[name]
    form = ("text", None) if name in TEXT_AND_NONE else ("object", ABSENT)
    num_rendered = 0
    for chat in CHATS.values():
        for end in ENDS:
            expected = theirs(source, chat, *form, tools, **end)
            assert ours(source, chat, tools, **end) == expected
            num_rendered += expected is not None
            # DeepSeek's first templates leave calls out where there is a text: so do transformers and we.
            has_calls = any(message.get("tool_calls") and not message["content"] for message in chat)
            assert expected is None or not has_calls or '"days": 2' in expected or "<parameter=days>\n2" in expected
    assert num_rendered >= len(CHATS) * len(ENDS) * 2 // 3


@pytest.mark.parametrize("name", TOOL_STYLES)
def test_formats_are_found_from_the_template(name: str) -> None:
    assert compiled(TOOL_STYLES[name]).formats.names == FORMATS[name]


def test_there_are_as_many_styles_as_the_checklist_wants() -> None:
    assert len(TOOL_STYLES) >= 12


@pytest.mark.parametrize("name", ["hermes", "qwen3", "mistral-v11", "deepseek-v3"])
def test_arguments_may_come_as_an_object(name: str) -> None:
    sent = [USER, {**CALLS, "tool_calls": [{**WEATHER, "function": {"name": "now", "arguments": {"a": [1]}}}]}]
    as_text = [USER, {**CALLS, "tool_calls": [{**WEATHER, "function": {"name": "now", "arguments": '{"a": [1]}'}}]}]
    assert ours(TOOL_STYLES[name], sent, None) == ours(TOOL_STYLES[name], as_text, None) is not None


@pytest.mark.parametrize("arguments", ["", None, "{}"])
def test_no_arguments(arguments: str | None) -> None:
    chat = [USER, {**CALLS, "tool_calls": [{**NOW, "function": {"name": "now", "arguments": arguments}}]}]
    assert '{"name": "now", "arguments": {}}' in (ours(TOOL_STYLES["hermes"], chat, None) or "")


def test_arguments_that_are_no_object_are_refused() -> None:
    chat = [USER, {**CALLS, "tool_calls": [{**NOW, "function": {"name": "now", "arguments": "[1"}}]}]
    with pytest.raises(ValueError, match="arguments of a tool call must be a JSON object, got"):
        compiled(TOOL_STYLES["hermes"]).render(chat)


def test_ids_are_shortened_for_templates_that_want_it() -> None:
    """Ids of another server, in a call and its result alike."""
    long = {**WEATHER, "id": "call_0123456789"}
    text = ours(TOOL_STYLES["mistral"], [USER, {**CALLS, "tool_calls": [long]}, result(long)], None)
    assert text is not None
    id = text.partition('"id": "')[2].partition('"')[0]
    assert len(id) == 9 and id.isalnum() and f'"call_id": "{id}"' in text


@pytest.mark.parametrize("source", [CHATML, GEMMA2], ids=["chatml", "gemma2"])
def test_a_template_without_calls_gets_them_as_texts(source: str) -> None:
    chat = [USER, CALLS | {"tool_calls": [WEATHER, NOW]}, result(WEATHER), result(NOW, "12:00"), REPLY, NEXT]
    text = ours(source, chat, None)
    assert text is not None and '{"name": "now", "arguments": {}}' in text
    assert "Result of get_weather:\n21 °C" in text and "Result of now:\n12:00" in text


def test_a_template_without_tools_gets_them_described() -> None:
    template = compiled(CHATML)
    assert template.formats.names == ("json", "none")
    text = template.render([SYSTEM, USER], tools=TOOLS)
    system = text.partition("<|im_end|>")[0]
    assert json.dumps(TOOLS[0]["function"], ensure_ascii=False) in system and system.endswith("Be brief.")
    assert '{"name": ' in system and text.endswith("<|im_start|>assistant\n")


def test_tools_of_an_unknown_format_are_refused_with_the_fix() -> None:
    with pytest.raises(ValueError, match=r"none fits this model's chat template; got 2 tools.*--tool-format and one of"):
        compiled(TOOL_STYLES["command"]).render([USER], tools=TOOLS)
    named = ChatTemplate(TOOL_STYLES["command"], **SPECIAL, tool_format="hermes")
    assert "get_weather" in named.render([USER], tools=TOOLS)


@pytest.mark.parametrize(
    ("kind", "rule"), [("tool_format", "a tool format must be"), ("reasoning_format", "a reasoning format must be")]
)
def test_a_name_that_is_none(kind: str, rule: str) -> None:
    template = ChatTemplate(CHATML, **SPECIAL, **{kind: "hermit"})
    with pytest.raises(ValueError, match=rule):
        template.formats  # noqa: B018


def test_a_template_that_fails_at_everything_has_no_formats() -> None:
    template = ChatTemplate("{{ raise_exception('no') }}", **SPECIAL)
    assert (template.knows_tools, template.knows_calls) == (False, False)
    assert isinstance(template.formats, AnswerFormats)


def package_templates(folder: Path) -> dict[str, str]:
    """The templates in packages' wheels, read where they are."""
    found = {}
    for wheel in sorted(folder.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if name.endswith(".jinja"):
                    found[f"{name.partition('/')[0]}:{Path(name).stem}"] = archive.read(name).decode()
    return found


@pytest.mark.parametrize("is_thorough", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["some", "all"])
def test_templates_that_packages_carry(template_wheels: Path, is_thorough: bool) -> None:
    """Of the canonical form, an object of arguments and no content, where that shows the call; else of the one that does."""
    templates = package_templates(template_wheels)
    assert len(templates) > 100
    if not is_thorough:
        templates = {name: source for name, source in templates.items() if "training" not in name}
    assert compiled(templates["trl:gptoss"]).formats.names == ("harmony", "harmony")
    num_with_tools = num_with_calls = num_compared = 0
    for name, source in templates.items():
        template = compiled(source)
        num_with_tools += template.knows_tools
        num_with_calls += template.knows_calls
        for title, chat in CHATS.items():
            has_calls = any("tool_calls" in message for message in chat)
            if template.content_form("user") == "parts" or (has_calls and not template.knows_calls):
                continue
            for tools in (None, TOOLS) if template.knows_tools else (None,):
                for end in ENDS if is_thorough else ENDS[1:2]:
                    texts = [theirs(source, chat, *form, tools, **end) for form in (FORMS if has_calls else FORMS[:1])]
                    # Of a call with a text some show only the text, in whatever form.
                    shown = [text for text in texts if text is not None and (not has_calls or shows_call(text))]
                    expected = (shown or [text for text in texts if text is not None] or [None])[0]
                    assert ours(source, chat, tools, **end) == expected, (name, title, end)
                    num_compared += expected is not None
    assert min(num_with_tools, num_with_calls) >= 20
    assert num_compared > (3000 if is_thorough else 500), num_compared


def shows_call(text: str) -> bool:
    """Whether an argument stands in `text` as JSON, or in the family's own way; not as Python has it, nor in a string."""
    return re.search(r'"days": ?2|days>\n?2|<arg_value>2|\bdays[=:]2', text) is not None
