"""A template that does not end, or grows without end, is one ValueError within seconds; so is whatever else it raises."""

from __future__ import annotations

import time

import pytest
from jinja2.exceptions import SecurityError

from runtime.chat import ChatTemplate
from runtime.template_sandbox import MAX_SIZE, TemplateEnvironment

CHAT = [{"role": "user", "content": "Hi"}]
GROWS = "{{% set ns = namespace(x={0}) %}}{{% for i in range(99999) %}}{{% set ns.x = {1} %}}{{% endfor %}}{{{{ ns.x }}}}"


ENDLESS = [
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) if j > i %}{{ j }}{% endfor %}{% endfor %}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(50) }}",
    "{% for i in range(99999) %}{% generation %}{% for j in range(99999) %}{% endfor %}{% endgeneration %}{% endfor %}",
    "{% for x in range(99999) recursive %}{% if loop.depth < 3 %}{{ loop(range(99999)) }}{% endif %}{% endfor %}",
]


@pytest.mark.parametrize("source", ENDLESS)
def test_steps_are_counted_wherever_they_are_taken(source: str) -> None:
    environment = TemplateEnvironment()
    with pytest.raises(SecurityError, match="more turns of loops, and calls"):
        environment.render(environment.from_string(source), {}, max_steps=10_000)


@pytest.mark.parametrize(
    "source",
    [
        ENDLESS[0],
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ range(10 ** 9) | list }}",
        "{{ lipsum(10 ** 9) }}",
        "{{ 'x' * 10 ** 9 }}",
        "{{ 10 ** 9 * [1] }}",
        "{{ 9 ** 999999999 }}",
        "{% for i in range(99999) %}{{ 'x' * 99999 }}{% endfor %}",
        "{% macro f() %}{% for i in range(99999) %}{{ 'x' * 99999 }}{% endfor %}{% endmacro %}{% set y = f() %}",
        "{% set x %}{% for i in range(99999) %}{{ 'x' * 99999 }}{% endfor %}{% endset %}",
        GROWS.format("'ab'", "ns.x ~ ns.x"),
        GROWS.format("'ab'", "ns.x.replace('ab', 'abcdef' * 2)"),
        GROWS.format("'ab'", "ns.x | replace('ab', 'abcdef' * 2)"),
        GROWS.format("['ab']", "[ns.x | join, ns.x | join]"),
        GROWS.format("'ab'", "ns.x + ns.x"),
        GROWS.format("[1]", "ns.x + ns.x"),
        GROWS.format("9", "ns.x * ns.x"),
        GROWS.format("9", "ns.x ** 2"),
    ],
)
def test_no_template_runs_or_grows_for_ever(source: str) -> None:
    started = time.process_time()
    with pytest.raises(ValueError, match="the chat template refused the messages: "):
        ChatTemplate(source).render(CHAT)
    assert time.process_time() - started < 10


@pytest.mark.parametrize(
    "source",
    [
        "{{ x.y.z }}",
        "{{ 1 // 0 }}",
        "{{ 'a' | int + none }}",
        "{{ '%d' % 'a' }}",
        "{{ {}[0].a }}",
        "{% for i in 5 %}{% endfor %}",
        "{{ x | tojson }}",
        "{{ '{0.a.b}'.format() }}",
        "{% import 'x' as y %}",
        "{{ raise_exception() }}",
        "{{ messages | sort(attribute='x.y') | groupby('no') | first }}",
    ],
)
def test_what_a_template_raises_is_one_error(source: str) -> None:
    with pytest.raises(ValueError, match="the chat template refused the messages: "):
        ChatTemplate(source).render(CHAT)


@pytest.mark.parametrize(
    "source", ["{% if %}", "{{ x | no_such_filter }}", "{% endfor %}", "{% break %}", "{{ '" + "(" * 9, "{% for %}", "{" * 2]
)
def test_what_is_no_template_is_one_error(source: str) -> None:
    with pytest.raises(ValueError, match="the chat template is not valid Jinja: "):
        ChatTemplate(source)


def test_limits_are_of_each_rendering() -> None:
    template = ChatTemplate("{% for i in range(60000) %}{% endfor %}{{ messages[0].content }}")
    for _ in range(20):
        assert template.render(CHAT) == "Hi"


def test_long_chats_are_within_the_limits() -> None:
    source = (
        "{% for m in messages %}{{ '<' ~ m.role ~ '>' + m.content.strip() }}{% for c in m.content %}{% endfor %}{% endfor %}"
    )
    assert len(ChatTemplate(source).render([{"role": "user", "content": "0123456789"}] * 20_000)) == 20_000 * 16
    assert len(ChatTemplate("{{ messages[0].content }}").render([{"role": "user", "content": "x" * MAX_SIZE}])) == MAX_SIZE
