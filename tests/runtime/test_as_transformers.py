"""Prompts against transformers' own, character by character: what one renders the other does, and what one refuses, both do."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from runtime.chat import ChatTemplate
from tests.runtime.template_styles import PARTS, STYLES

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
TOOL = {"name": "weather", "description": "Wie wird's? <b>好</b>", "parameters": {"z": 1, "a": [True, None]}}


def rendered(render: Any) -> str | None:
    """What a rendering gives, None where it refuses."""
    try:
        return str(render())
    except Exception:
        return None


def transformers_prompt(source: str, messages: Sequence[Mapping[str, Any]], **options: Any) -> str | None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), chat_template=source, **SPECIAL)
    return rendered(lambda: tokenizer.apply_chat_template(list(messages), tokenize=False, **options))


def our_prompt(source: str, messages: Sequence[Mapping[str, Any]], **options: Any) -> str | None:
    own = {key: options.pop(key, False) for key in ("add_generation_prompt", "continue_final_message")}
    return rendered(lambda: compiled(source).render(messages, **own, variables=options))


@cache
def compiled(source: str) -> ChatTemplate:
    return ChatTemplate(source, **SPECIAL)


@cache
def carried_templates() -> dict[str, str]:
    """Chat templates in the code of the installed transformers, read where they are."""
    found = {}
    for path in sorted(Path(transformers.__file__).parent.glob("models/*/processing_*.py")):
        text = path.read_text(encoding="utf-8")
        if " in messages %}" in text:
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and " in messages %}" in node.value:
                    found[f"{path.stem}:{node.lineno}"] = node.value
    return found


texts = st.one_of(
    st.sampled_from(
        ["", " ", "e", "user", "assistant", "<|im_e", "x</think>y", "</think>", "A\n", "\n A b ", "{{ x }}", "<s>"]
    ),
    st.text("ab <>|\n\t好'\"\\{}", max_size=12),
)
chats = st.builds(
    lambda system, turns, last: [*system, *turns, *last],
    st.lists(st.builds(lambda text: {"role": "system", "content": text}, texts), max_size=1),
    st.lists(
        st.builds(lambda a, b: [{"role": "user", "content": a}, {"role": "assistant", "content": b}], texts, texts), max_size=2
    ).map(lambda pairs: [message for pair in pairs for message in pair]),
    st.builds(lambda role, text: [{"role": role, "content": text}], st.sampled_from(["user", "assistant", "tool"]), texts),
)


@pytest.mark.parametrize("name", STYLES)
@settings(max_examples=20)
@given(
    messages=chats,
    end=st.sampled_from([{}, {"add_generation_prompt": True}, {"continue_final_message": True}]),
    extra=st.sampled_from(
        [{}, {"tools": [TOOL]}, {"documents": [{"title": "T", "text": "a\nb"}]}, {"enable_thinking": False}, {"tools": []}]
    ),
)
def test_styles(name: str, messages: list[dict[str, Any]], end: dict[str, Any], extra: dict[str, Any]) -> None:
    assert our_prompt(STYLES[name], messages, **end, **extra) == transformers_prompt(STYLES[name], messages, **end, **extra)


def test_styles_render() -> None:
    """The comparison is of texts: each style has a prompt for a plain chat, and one that goes on with its reply."""
    chat = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So"}]
    for source in STYLES.values():
        assert "Why?" in (our_prompt(source, chat[:1], add_generation_prompt=True) or "")
        assert (our_prompt(source, chat, continue_final_message=True) or "").endswith("So")


@pytest.mark.parametrize("end", [{}, {"add_generation_prompt": True}, {"continue_final_message": True}])
def test_lists_of_parts_where_the_template_tells_them_apart(end: dict[str, Any]) -> None:
    parts = [{"type": "text", "text": " a "}, {"type": "text", "text": "b\n"}]
    chat = [{"role": role, "content": parts} for role in ("system", "user", "assistant")]
    assert our_prompt(STYLES["gemma3"], chat, **end) == transformers_prompt(STYLES["gemma3"], chat, **end) is not None


def test_templates_that_transformers_carries() -> None:
    assert carried_templates()
    chat = [{"role": "system", "content": " S "}, {"role": "user", "content": "q"}, {"role": "assistant", "content": "a "}]
    parts = [{"role": m["role"], "content": [{"type": "text", "text": m["content"]}]} for m in chat]
    for name, source in carried_templates().items():
        for end in ({}, {"add_generation_prompt": True}, {"continue_final_message": True}):
            assert our_prompt(source, parts, **end) == transformers_prompt(source, parts, **end), name


#: every filter, function, tag and default that a template may read, each where its value shows
READS = {
    "json": "{{ v | tojson }}|{{ v | tojson(indent=2) }}|{{ v | tojson(ensure_ascii=true) }}|{{ v | tojson(sort_keys=true) }}",
    "json by place": "{{ v | tojson(true) }}|{{ v | tojson(false, 4) }}|{{ v | tojson(separators=(',', ':')) }}",
    "json of nothing": "{{ nothing | tojson }}",
    "variables": "{{ tools is none }}{{ documents is none }}{{ add_generation_prompt }}{{ nothing is defined }}",
    "special tokens": "{{ bos_token }}{{ eos_token }}{{ pad_token }}{{ unk_token is defined }}{{ sep_token }}",
    "functions": "{{ dict(a=1) }}{{ dict.fromkeys('ab', 2) }}{{ range(3) | list }}",
    "functions of its own": "{{ strftime_now('%Y-%m-%d') }}{{ raise_exception is defined }}",
    "namespace": "{% set ns = namespace(self=1, a=2) %}{% set ns.b = 3 %}{{ ns.self }}{{ ns.a }}{{ ns.b }}{{ ns.c }}",
    "namespace's own": "{% set ns = namespace(_a=1) %}",
    "blocks": "  {% if true %}\n  x\n  {% endif %}\n y \n{# note #}\n  {{ 1 }}  \n\n",
    "generation": "{% generation %}{% set x = 1 %}{{ messages | length }}{% endgeneration %}{{ x is defined }}",
    "continue": "{% for i in range(9) %}{% if i == 2 %}{% continue %}{% endif %}{{ i }}{% endfor %}",
    "break": "{% for i in range(9) %}{% if i == 5 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "loops": "{% for c in 'abc' %}{{ loop.index }}{{ loop.length }}{{ loop.nextitem }}{% endfor %}",
    "loop else": "{% for c in [] %}{% else %}none{% endfor %}",
    "loop if": "{% for k, v in {'a': 1, 'b': 0}.items() if v %}{{ k }}{{ loop.length }}{{ loop.last }}{% endfor %}",
    "recursion": "{% for x in [[1, [2]], [3]] recursive %}{{ loop(x) if x is iterable else x }}{% endfor %}",
    "operators": "{{ 1 ~ 'a' ~ none ~ 2.5 }}{{ 'a' * 3 }}{{ [1] + [2] }}{{ 2 ** 5 }}{{ 3 * 1.5 }}{{ (1, 2) + (3,) }}",
    "filters of blocks": "{% filter upper %}a{{ 'b' }}{% endfilter %}{% set x | replace('c', 'd') %}c{% endset %}{{ x }}",
    "filters in rows": "{{ [3, 1] | sort | map('string') | join('-') | upper }}{{ messages | map(attribute='role') | list }}",
    "undefined": "{{ nothing }}{{ messages[0].nothing }}",
    "undefined deeper": "{{ nothing.more }}",
    "undefined sum": "{{ 'a' + nothing }}",
    "html": "{{ '<b>&' }}{{ '<b>' | escape }}{{ '<b>' | safe }}",
    "import": "{% include 'other' %}",
    "extends": "{% extends 'other' %}",
    "mutation": "{{ messages.append(1) }}",
    "underscores": "{{ messages.__class__ }}{{ ''.__class__ }}",
    "underscored attribute": "{{ messages.__class__.mro() }}",
    "large range": "{{ range(1000000) | list | length }}",
    "trailing line": "{{ 1 }}\n",
    "string methods": "{{ 'a-b'.split('-') }}{{ ' a'.strip() }}{{ '%s' | format(3) }}{{ '{}'.format(4) }}",
    "tests": "{{ 1 is number }}{{ {} is mapping }}{{ 'a' is string }}{{ none is none }}{{ 'a' is in 'ab' }}",
    "raise": "{{ raise_exception('no') }}",
}


@pytest.mark.parametrize("name", READS)
def test_what_a_template_may_read(name: str) -> None:
    messages, variables = [{"role": "user", "content": "c"}], {"v": {"b": "<ü>", "a": [1, None, True]}}
    assert our_prompt(READS[name], messages, **variables) == transformers_prompt(READS[name], messages, **variables)


def test_the_same_names_are_there() -> None:
    from transformers.utils.chat_template_utils import _compile_jinja_template

    theirs, ours = _compile_jinja_template("x").environment, compiled("x")._environment
    assert ours.globals.keys() == theirs.globals.keys() and ours.tests.keys() == theirs.tests.keys()
    assert {name for name in ours.filters if not name.startswith(" ")} == set(theirs.filters)
    for name in ("trim_blocks", "lstrip_blocks", "keep_trailing_newline", "autoescape", "undefined", "optimized", "sandboxed"):
        assert getattr(ours, name) == getattr(theirs, name)


def test_strings_reach_a_template_of_parts_alone() -> None:
    chat = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    parts = [{"role": m["role"], "content": [{"type": "text", "text": m["content"]}]} for m in chat]
    for end in ({}, {"add_generation_prompt": True}, {"continue_final_message": True}):
        assert our_prompt(PARTS, chat, **end) == our_prompt(PARTS, parts, **end) == transformers_prompt(PARTS, parts, **end)
