"""Our rendering against transformers' own, on templates with the tricks that real ones use."""

from __future__ import annotations

from typing import Any

import pytest

from runtime.chat import ChatTemplate

CHATML = (
    "{%- for message in messages %}\n"
    "    {%- if loop.first and message['role'] != 'system' %}\n"
    "        {{- '<|im_start|>system\\nYou are helpful.<|im_end|>\\n' }}\n"
    "    {%- endif %}\n"
    "    {{- '<|im_start|>' + message.role + '\\n' }}"
    "{% generation %}{{ message.content }}{% endgeneration %}{{ '<|im_end|>\\n' }}\n"
    "{%- endfor %}\n"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}\n"
)
LLAMA2 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content | trim + ' [/INST]' }}"
    "{% elif m.role == 'assistant' %}{{ ' ' + m.content + ' ' + eos_token }}{% endif %}{% endfor %}"
)
TRICKS = (
    "{% set ns = namespace(n=0) %}\n  {% for m in messages %}\n{% if m.role == 'system' %}{% continue %}{% endif %}\n"
    "{% set ns.n = ns.n + 1 %}{{ ns.n }}{{ {'a': m.content, 'ü': '<&>'} | tojson }}{{ [1, 2] | tojson(indent=2) }}\n"
    "{% if ns.n > 1 %}{% break %}{% endif %}{% endfor %}{{ mood | default('none') }}{{ strftime_now('%Y') }}"
)
MESSAGES = [
    {"role": "system", "content": "S"},
    {"role": "user", "content": " Hi 你 "},
    {"role": "assistant", "content": "Yo <b>"},
    {"role": "user", "content": "more"},
]


@pytest.mark.parametrize("source", [CHATML, LLAMA2, TRICKS])
@pytest.mark.parametrize("add_generation_prompt", [False, True])
def test_renders_as_transformers_does(source: str, add_generation_prompt: bool) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    variables: dict[str, Any] = {"mood": "good"}
    (expected,), _ = render_jinja_template(
        [MESSAGES],
        chat_template=source,
        add_generation_prompt=add_generation_prompt,
        bos_token="<s>",
        eos_token="</s>",
        **variables,
    )
    template = ChatTemplate(source, "<s>", "</s>")
    assert template.render(MESSAGES, add_generation_prompt=add_generation_prompt, variables=variables) == expected


def test_continue_final_message_ends_inside_it() -> None:
    messages = [*MESSAGES[:2], {"role": "assistant", "content": "It is"}]
    text = ChatTemplate(CHATML).render(messages, add_generation_prompt=False, continue_final_message=True)
    assert text.endswith("<|im_start|>assistant\nIt is")


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{% set _ = messages.append(1) %}",
        "{{ raise_exception('no') }}",
        "{{ messages[9].content }}",
        "{{ 1 / 0 }}",
    ],
)
def test_a_template_that_misbehaves_is_a_value_error(source: str) -> None:
    with pytest.raises(ValueError, match="the chat template refused"):
        ChatTemplate(source).render(MESSAGES)


def test_a_broken_template_names_its_line() -> None:
    with pytest.raises(ValueError, match="line 2"):
        ChatTemplate("ok\n{% if %}")
