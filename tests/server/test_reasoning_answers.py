"""Thoughts in answers: apart from the text, whole and streamed, counted, and kept out of calls."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from runtime.chat import ChatTemplate
from tests.server.speaking import HERMES_TEMPLATE
from tests.server.tool_requests import answer, calls, deltas, post, say, streamed

CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>'
#: a model that always thinks: its template has begun to
OPEN = HERMES_TEMPLATE + "{% if add_generation_prompt and enable_thinking is not false %}<think>\n{% endif %}"
#: one that is told not to by thoughts that are empty
HYBRID = HERMES_TEMPLATE + "{% if add_generation_prompt and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"


@pytest.fixture(scope="module")
def thinking(run_server: Any) -> Iterator[Any]:
    with run_server(speak=lambda prompt: "", template=HERMES_TEMPLATE) as served:
        yield served


@pytest.fixture(scope="module")
def opened(run_server: Any) -> Iterator[Any]:
    with run_server(speak=lambda prompt: "", template=OPEN) as served:
        yield served


#: what is said -> thoughts, text
CASES: dict[str, tuple[str, str | None, str]] = {
    "thoughts and an answer": ("<think>\nHm, Rome.\n</think>\n\nSunny.", "Hm, Rome.", "Sunny."),
    "no thoughts": ("Sunny.", None, "Sunny."),
    "empty thoughts": ("<think>\n\n</think>\n\nSunny.", None, "Sunny."),
    "lines of thoughts": ("<think>a\n\n b</think>c\n", "a\n\n b", "c\n"),
    "a space before": ("\n<think>a</think>b", "a", "b"),
    "thoughts without end": ("<think>a and b", "a and b", ""),
    "no answer": ("<think>a</think>", "a", ""),
    "half an end": ("<think>a </thin", "a </thin", ""),
    "the marker in a text": ("See <think>a</think>.", None, "See <think>a</think>."),
    "a second block": ("<think>a</think>b<think>c</think>", "a", "b<think>c</think>"),
    "other tags": ("<think>if a < b > c</th></think>d", "if a < b > c</th>", "d"),
    "a call that is only thought of": (f"<think>{CALL}</think>No.", CALL, "No."),
    "other alphabets": ("<think>你好</think>😀", "你好", "😀"),
    "an end alone": ("</think>b", None, "</think>b"),
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("name", CASES)
def test_answers(thinking: Any, name: str, stream: bool) -> None:
    text, reasoning, content = CASES[name]
    say(thinking, text)
    choice = (streamed if stream else answer)(thinking, tools=None)
    assert choice["message"].get("reasoning_content") == reasoning
    assert choice["message"].get("reasoning") == reasoning
    assert choice["message"]["content"] == content
    assert choice["finish_reason"] == "stop"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("text", "reasoning", "content"),
    [
        ("Hm.\n</think>\n\nSunny.", "Hm.", "Sunny."),
        ("</think>Sunny.", None, "Sunny."),
        ("Hm, and so on", "Hm, and so on", ""),
        ("<think>\nHm.</think>Sunny.", "Hm.", "Sunny."),
    ],
)
def test_a_template_that_has_begun_to_think(opened: Any, text: str, reasoning: str | None, content: str, stream: bool) -> None:
    say(opened, text)
    # The prompt ends with the marker, and what follows it is said by place.
    opened.runner._speak = lambda prompt: f"<think>\n{text}"
    choice = (streamed if stream else answer)(opened, tools=None)
    assert (choice["message"].get("reasoning_content"), choice["message"]["content"]) == (reasoning, content)


def test_thinking_is_switched_off_by_the_templates_variable(opened: Any) -> None:
    say(opened, "Sunny.")
    off = {"enable_thinking": False}
    choice = answer(opened, tools=None, chat_template_kwargs=off)
    assert choice["message"]["content"] == "Sunny." and "reasoning_content" not in choice["message"]


def test_empty_thoughts_in_the_prompt_are_no_thoughts(run_server: Any) -> None:
    with run_server(speak=lambda prompt: "<think>\n\n</think>\n\nSunny.", template=HYBRID) as served:
        choice = answer(served, tools=None, chat_template_kwargs={"enable_thinking": False})
        assert choice["message"]["content"] == "Sunny." and "reasoning_content" not in choice["message"]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_thoughts_and_then_a_call(thinking: Any, stream: bool) -> None:
    say(thinking, f"<think>I should look.</think>\n\nOne moment.\n{CALL}")
    choice = (streamed if stream else answer)(thinking)
    assert choice["message"]["reasoning_content"] == "I should look."
    assert choice["message"]["content"] == "One moment."
    assert calls(choice) == [("get_weather", {"city": "Rome"})]
    assert choice["finish_reason"] == "tool_calls"


def test_thoughts_before_a_required_call(opened: Any) -> None:
    """The grammar holds what comes after them."""
    say(opened, "")
    opened.runner._speak = lambda prompt: f"<think>\nRome it is.</think>\n\n{CALL}"
    choice = answer(opened, tool_choice="required", parallel_tool_calls=False)
    assert choice["message"]["reasoning_content"] == "Rome it is."
    assert calls(choice) == [("get_weather", {"city": "Rome"})]


def test_deltas_of_thoughts(thinking: Any) -> None:
    say(thinking, "<think>One two three.</think>Four.")
    chunks = [chunk["delta"] for chunk in deltas(thinking, tools=None)]
    kinds = ["reasoning_content" if "reasoning_content" in delta else "content" for delta in chunks if delta]
    num_thoughts = kinds.count("reasoning_content")
    assert kinds[: num_thoughts + 1] == ["content", *["reasoning_content"] * num_thoughts], "the role, thoughts, the answer"
    thoughts = [delta["reasoning_content"] for delta in chunks if "reasoning_content" in delta]
    assert "".join(thoughts) == "One two three." and len(thoughts) > 5
    assert all(delta["reasoning"] == delta["reasoning_content"] for delta in chunks if "reasoning_content" in delta)
    assert not any("reasoning_content" in delta and "content" in delta for delta in chunks)


def test_tokens_of_thoughts_are_counted(thinking: Any) -> None:
    thoughts = "<think>One two three.</think>"
    say(thinking, f"{thoughts}Four.")
    usage = post(thinking, tools=None).json()["usage"]
    num = len(thinking.tokenizer.encode(thoughts, add_special_tokens=False).ids)
    # The marker is many tokens here, of which the last begins the thoughts.
    assert usage["completion_tokens_details"]["reasoning_tokens"] == num - len("<think>") + 1
    say(thinking, "Four.")
    assert post(thinking, tools=None).json()["usage"]["completion_tokens_details"]["reasoning_tokens"] == 0


def test_thoughts_that_are_not_wanted(thinking: Any) -> None:
    say(thinking, "<think>One two three.</think>Four.")
    for choice in (answer(thinking, include_reasoning=False), streamed(thinking, include_reasoning=False)):
        assert choice["message"]["content"] == "Four." and "reasoning_content" not in choice["message"]
    assert post(thinking, include_reasoning=False).json()["usage"]["completion_tokens_details"]["reasoning_tokens"] > 5


def test_an_answer_cut_off_in_its_thoughts(thinking: Any) -> None:
    say(thinking, "<think>One two three.</think>Four.")
    choice = answer(thinking, tools=None, max_tokens=12)
    assert (choice["message"]["reasoning_content"], choice["message"]["content"]) == ("One t", "")
    assert choice["finish_reason"] == "length"


def test_a_continued_answer_goes_on_in_its_thoughts(thinking: Any) -> None:
    say(thinking, "<think>One two three.</think>Four.")
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "<think>One"}]
    message = answer(thinking, tools=None, messages=messages, continue_final_message=True)["message"]
    assert (message["reasoning_content"], message["content"]) == ("two three.", "Four.")
    messages[1]["content"] = "<think>One two three.</think>Fo"
    message = answer(thinking, tools=None, messages=messages, continue_final_message=True)["message"]
    assert message["content"] == "ur." and "reasoning_content" not in message


def test_a_users_text_begins_no_thoughts(thinking: Any) -> None:
    say(thinking, "Sunny.")
    message = answer(thinking, tools=None, messages=[{"role": "user", "content": "What is <think>?"}])["message"]
    assert message["content"] == "Sunny." and "reasoning_content" not in message


def test_a_model_without_a_format_writes_what_it_writes(run_server: Any) -> None:
    template = ChatTemplate(HERMES_TEMPLATE, bos_token="<s>", eos_token="</s>", reasoning_format="none")
    with run_server(speak=lambda prompt: "<think>a</think>b", chat_template=template) as served:
        message = answer(served)["message"]
        assert message["content"] == "<think>a</think>b" and "reasoning_content" not in message


@pytest.mark.parametrize(
    ("format", "text"),
    [
        ("mistral", "[THINK]a[/THINK]b"),
        ("seed", "<seed:think>a</seed:think>b"),
        ("reasoning", "<reasoning>a</reasoning>b"),
        ("harmony", "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b"),
    ],
)
def test_other_families_markers(run_server: Any, format: str, text: str) -> None:
    template = ChatTemplate(HERMES_TEMPLATE, bos_token="<s>", eos_token="</s>", reasoning_format=format)
    with run_server(speak=lambda prompt: text, chat_template=template) as served:
        message = answer(served, tools=None)["message"]
        assert (message["reasoning_content"], message["content"]) == ("a", "b")


def test_channels_of_special_tokens(run_server: Any) -> None:
    """As gpt-oss has them: special tokens that are left out of texts, and that its reader must see."""
    words = ["<|channel|>", "<|message|>", "<|start|>", "<|constrain|>", "<|call|>"]
    formats = {"tool_format": "harmony", "reasoning_format": "harmony"}
    template = ChatTemplate(HERMES_TEMPLATE, bos_token="<s>", eos_token="</s>", **formats)
    thought = "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>"
    call = 'commentary to=functions.get_weather <|constrain|>json<|message|>{"city": "Rome"}<|call|>'
    with run_server(speak=lambda prompt: "", chat_template=template, special_tokens=words) as served:
        for tools in ({"tools": None}, {}):
            say(served, f"{thought}final<|message|>b")
            message = answer(served, **tools)["message"]
            assert (message["reasoning_content"], message["content"]) == ("a", "b")
        say(served, thought + call)
        for asked in (answer, streamed):
            choice = asked(served)
            assert (choice["message"]["reasoning_content"], calls(choice)) == ("a", [("get_weather", {"city": "Rome"})])


def test_the_official_client(thinking: Any) -> None:
    say(thinking, "<think>One.</think>Two.")
    asked: Any = {"model": "tiny", "messages": [{"role": "user", "content": "?"}]}
    message = thinking.client().chat.completions.create(**asked).choices[0].message
    assert (message.reasoning_content, message.content) == ("One.", "Two.")
    with thinking.client().chat.completions.stream(**asked) as stream:
        final = stream.get_final_completion().choices[0].message
    assert (final.reasoning_content, final.content) == ("One.", "Two.")
