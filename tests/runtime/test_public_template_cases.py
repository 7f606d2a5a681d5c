"""Chats that public reports say went wrong elsewhere, against transformers' rendering of the chat as it was meant.

Templates and messages are ours; a case's link is where the trouble was described.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.runtime.template_styles import CHATML, DEEPSEEK, GEMMA2, GEMMA3, HARMONY, LLAMA3, MISTRAL, QWEN2, QWEN3
from tests.runtime.test_as_transformers import our_prompt, transformers_prompt

GENERATE, CONTINUE = {"add_generation_prompt": True}, {"continue_final_message": True}


def user(content: Any, **fields: Any) -> dict[str, Any]:
    return {"role": "user", "content": content, **fields}


def reply(content: Any, **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **fields}


def system(content: Any) -> dict[str, Any]:
    return {"role": "system", "content": content}


@dataclass(frozen=True)
class Case:
    """`meant` is the chat as transformers is to have it, where it differs from `chat`; the prompt then holds `shows`."""

    link: str
    template: str
    chat: list[dict[str, Any]]
    options: dict[str, Any]
    shows: str | None
    meant: list[dict[str, Any]] | None = None
    variables: dict[str, Any] = field(default_factory=dict)


CASES = {
    "a reply of one letter goes on": Case(
        # the letter also stands in the markup after it
        "https://github.com/huggingface/transformers/pull/40732",
        CHATML,
        [user("Which?"), reply("e")],
        CONTINUE,
        "assistant\ne",
    ),
    "an empty reply goes on": Case(
        "https://github.com/huggingface/transformers/issues/40687", CHATML, [user("Which?"), reply("")], CONTINUE, "assistant\n"
    ),
    "a reply goes on that stands in the chat before": Case(
        "https://github.com/huggingface/transformers/pull/36404",
        LLAMA3,
        [user("a"), reply("Yes."), user("b"), reply("Yes. ")],
        CONTINUE,
        "b<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nYes.",
    ),
    "a reply goes on after its space, where contents are trimmed": Case(
        "https://github.com/huggingface/transformers/pull/34214", LLAMA3, [user("Capital?"), reply("It is ")], CONTINUE, "It is"
    ),
    "a reply keeps its line break, where contents are not trimmed": Case(
        "https://github.com/huggingface/transformers/pull/34253",
        CHATML,
        [user("Code"), reply("def f():\n")],
        CONTINUE,
        "f():\n",
    ),
    "a reply goes on from the end of its thoughts": Case(
        "https://github.com/huggingface/transformers/issues/36440", DEEPSEEK, [user("q"), reply("</think>")], CONTINUE, None
    ),
    "no calls in an empty list": Case(
        "https://github.com/vllm-project/vllm/issues/13978",
        LLAMA3,
        [user("q"), reply("a", tool_calls=[]), user("r")],
        GENERATE,
        "\n\na<|eot_id|>",
        meant=[user("q"), reply("a"), user("r")],
    ),
    "a developer's message": Case(
        "https://github.com/sgl-project/sglang/issues/40082",
        QWEN2,
        [{"role": "developer", "content": "Say BANANA"}, user("q")],
        GENERATE,
        "system\nSay BANANA",
        meant=[system("Say BANANA"), user("q")],
    ),
    "a developer's message, to a model with that role": Case(
        "https://github.com/ggml-org/llama.cpp/pull/20215",
        HARMONY,
        [{"role": "developer", "content": "Say BANANA"}, user("q")],
        GENERATE,
        "developer<|message|>Say BANANA",
    ),
    "thoughts under the older name": Case(
        "https://github.com/QwenLM/qwen-code/issues/4285",
        QWEN3,
        [user("q"), reply("a", reasoning="because")],
        {},
        "<think>\nbecause\n</think>",
        meant=[user("q"), reply("a", reasoning_content="because")],
    ),
    "no HTML escapes in JSON": Case(
        "https://github.com/openvinotoolkit/model_server/pull/4151",
        "{{ '<tools>' + (info | tojson) + '</tools>' }}{{ messages[0].content }}",
        [user("q")],
        GENERATE,
        '<tools>{"a": "<b>\'&"}</tools>',
        variables={"info": {"a": "<b>'&"}},
    ),
    "no escapes of other alphabets in JSON": Case(
        "https://github.com/huggingface/transformers/pull/31041",
        "{{ info | tojson }}{{ messages[0].content }}",
        [user("q")],
        GENERATE,
        "안녕😀",
        variables={"info": ["안녕😀"]},
    ),
    "an argument of tojson": Case(
        "https://github.com/sgl-project/sglang/issues/13722",
        "{{ info | tojson(ensure_ascii=False) }}{{ info | tojson(ensure_ascii=True) }}{{ messages[0].content }}",
        [user("q")],
        GENERATE,
        '{"ü": 1}{"\\u00fc": 1}',
        variables={"info": {"ü": 1}},
    ),
    "JSON of what is not there": Case(
        "https://github.com/sgl-project/sglang/pull/20700", "{{ messages[0].nothing | tojson }}", [user("q")], GENERATE, None
    ),
    "the date": Case(
        "https://github.com/huggingface/text-generation-inference/issues/2987",
        "{%- set today = strftime_now('%Y-%m') %}{{- bos_token + today + messages[0].content }}",
        [user("q")],
        GENERATE,
        "<s>20",
    ),
    "a system message to a model without them": Case(
        "https://github.com/EricLBuehler/mistral.rs/issues/506", GEMMA2, [system("s"), user("q")], GENERATE, None
    ),
    "roles that do not alternate": Case(
        "https://github.com/microsoft/autogen/issues/1037", MISTRAL, [user("a"), user("b")], GENERATE, None
    ),
    "a reply without content": Case(
        "https://github.com/huggingface/transformers/pull/45348",
        "{% for m in messages %}{{ m.role }}{% if m.content %}:{{ m.content }}{% endif %};{% endfor %}",
        [user("q"), reply(None), user("r")],
        {},
        "user:q;assistant;user:r;",
    ),
    "texts in parts, to a template of strings": Case(
        "https://github.com/vllm-project/vllm/pull/9358",
        CHATML,
        [user([{"type": "text", "text": "one"}, {"type": "text", "text": "two"}])],
        GENERATE,
        "user\none\ntwo<|im_end|>",
        meant=[user("one\ntwo")],
    ),
    "texts in parts, to a template of both": Case(
        "https://github.com/vllm-project/vllm/pull/9358",
        GEMMA3,
        [user([{"type": "text", "text": "one"}, {"type": "text", "text": "two"}])],
        GENERATE,
        "user\nonetwo<end_of_turn>",
    ),
    "a beginning of sequence, once": Case(
        "https://github.com/deepseek-ai/DeepSeek-R1/issues/151", DEEPSEEK, [user("hello")], GENERATE, "<s><|User|>hello"
    ),
    "a block for training": Case(
        "https://github.com/theroyallab/tabbyAPI/pull/437",
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
        [user("q"), reply("a")],
        {},
        "qa",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_case(name: str) -> None:
    case = CASES[name]
    ours = our_prompt(case.template, case.chat, **case.options, **case.variables)
    assert ours == transformers_prompt(case.template, case.meant or case.chat, **case.options, **case.variables)
    if case.shows is None:
        assert ours is None
    else:
        assert ours is not None and case.shows in ours
        assert not case.options.get("continue_final_message") or ours.endswith(case.shows)
