"""What clients may write in several ways reaches a template in the one that it reads; the oracle renders it so written."""

from __future__ import annotations

from typing import Any

import pytest

from runtime.chat import ChatTemplate
from runtime.messages import normalized
from tests.runtime.template_styles import CHATML, GEMMA3, HARMONY, LLAMA3, PARTS, QWEN2, QWEN3
from tests.runtime.test_as_transformers import our_prompt, transformers_prompt

USER = {"role": "user", "content": "q"}
REPLY = {"role": "assistant", "content": "A"}
#: what the openai client gives back of a reply
DUMPED = {"refusal": None, "annotations": [], "audio": None, "function_call": None, "tool_calls": None}
WRITES_ALL = "{% for m in messages %}{{ m | tojson }}{% endfor %}"
READS_REASONING = "{% for m in messages %}{{ m.role }}:{{ m.reasoning }}:{{ m.content }};{% endfor %}"


@pytest.mark.parametrize("fields", [{"tool_calls": None}, {"tool_calls": []}, DUMPED, {"name": None, "function_call": {}}])
@pytest.mark.parametrize("source", [LLAMA3, QWEN2, QWEN3, CHATML, WRITES_ALL])
def test_null_and_empty_fields_are_absent(source: str, fields: dict[str, Any]) -> None:
    expected = transformers_prompt(source, [USER, REPLY], add_generation_prompt=True)
    assert expected is not None
    assert our_prompt(source, [USER, REPLY | fields], add_generation_prompt=True) == expected


def test_content_may_be_empty_but_not_null() -> None:
    template = ChatTemplate(WRITES_ALL)
    chat = [{"role": "user", "content": ""}, {"role": "assistant", "content": None}, {"role": "user", "content": []}]
    assert [message.get("content", "absent") for message in normalized(chat, template)] == ["", "absent", ""]


@pytest.mark.parametrize("source", [QWEN2, CHATML, LLAMA3, GEMMA3])
def test_a_developer_is_the_system_of_templates_that_know_none(source: str) -> None:
    for start in ({"add_generation_prompt": True}, {}):
        ours = our_prompt(source, [{"role": "developer", "content": "Be brief"}, USER], **start)
        assert ours == transformers_prompt(source, [{"role": "system", "content": "Be brief"}, USER], **start)
        assert ours is not None and "Be brief" in ours


@pytest.mark.parametrize(
    "source",
    [
        HARMONY,
        "{% for m in messages %}{{ m.role if m['role'] in ['system', 'developer'] }}{{ m.content }}{% endfor %}",
        "{% set names = {'developer': 'D'} %}{% for m in messages %}{{ names[m.role] }}{{ m.content }}{% endfor %}",
    ],
)
def test_a_developer_stays_one_where_the_template_knows_it(source: str) -> None:
    chat = [{"role": "developer", "content": "Be brief"}, USER]
    assert our_prompt(source, chat) == transformers_prompt(source, chat) is not None


def test_the_word_in_a_text_is_no_role() -> None:
    source = "You help a developer. {{ 'A developer asks.' }}{% for m in messages %}{{ m.role }}:{{ m.content }} {% endfor %}"
    assert "system:Be brief" in ChatTemplate(source).render([{"role": "developer", "content": "Be brief"}, USER])


@pytest.mark.parametrize("given", ["reasoning", "reasoning_content", "thinking"])
@pytest.mark.parametrize(
    ("source", "read"), [(QWEN3, "reasoning_content"), (HARMONY, "thinking"), (READS_REASONING, "reasoning")]
)
def test_thoughts_under_any_name(source: str, read: str, given: str) -> None:
    expected = transformers_prompt(source, [USER, REPLY | {read: "R"}])
    assert expected is not None and "R" in expected
    assert our_prompt(source, [USER, REPLY | {given: "R"}]) == expected
    others: dict[str, Any] = dict.fromkeys({"reasoning", "thinking"} - {given})
    assert our_prompt(source, [USER, REPLY | others | {given: "R"}]) == expected


def test_empty_thoughts_are_thoughts() -> None:
    chat = [USER, {"role": "assistant", "content": "<think>no</think>A", "reasoning_content": ""}]
    assert our_prompt(QWEN3, chat) == transformers_prompt(QWEN3, chat)


@pytest.mark.parametrize("source", [CHATML, QWEN2, LLAMA3, "{{ messages[0].content }}", "{{ messages[0].content | trim }}"])
def test_parts_are_lines_where_the_template_reads_strings(source: str) -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "refusal", "refusal": "no"}, {"type": "text", "text": "two"}]
    expected = transformers_prompt(source, [{"role": "user", "content": "one\nno\ntwo"}], add_generation_prompt=True)
    assert our_prompt(source, [{"role": "user", "content": parts}], add_generation_prompt=True) == expected is not None


@pytest.mark.parametrize(
    ("source", "form"),
    [(CHATML, "text"), (LLAMA3, "text"), (GEMMA3, "either"), (PARTS, "parts"), ("{{ raise_exception('no') }}", "text")],
)
def test_what_contents_are_read_as(source: str, form: str) -> None:
    template = ChatTemplate(source)
    assert [template.content_form(role) for role in ("user", "assistant", "no such role")] == [form] * 3


def test_templates_that_refuse_strings_get_lists() -> None:
    source = "{% for m in messages %}{{ m.role + ':' + m.content[0]['text'] }};{% endfor %}"
    chat = [{"role": "system", "content": "s"}, USER, REPLY]
    assert ChatTemplate(source).render(chat, add_generation_prompt=False) == "system:s;user:q;assistant:A;"


def test_the_form_is_of_each_role() -> None:
    source = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ m.content | trim }}{% elif m.content is string %}{{ m.content }}"
        "{% else %}{% for part in m.content %}<{{ part.text }}>{% endfor %}{% endif %}{% endfor %}"
    )
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert ChatTemplate(source).render([{"role": r, "content": parts} for r in ("system", "user")]) == "a\nb<a><b>"


@pytest.mark.parametrize("content", [[{"type": "image_url"}], [{"type": "text"}], ["a"], 5])
def test_what_is_no_text_is_refused(content: Any) -> None:
    with pytest.raises(ValueError, match="content"):
        ChatTemplate(CHATML).render([{"role": "user", "content": content}])


def test_messages_are_not_changed() -> None:
    message = {"role": "developer", "content": [{"type": "text", "text": "a"}], "reasoning": "R", "name": None}
    before = {**message, "content": [dict(message["content"][0])]}  # type: ignore[index, call-overload]
    ChatTemplate(QWEN3).render([message], add_generation_prompt=False, continue_final_message=True)
    assert message == before
