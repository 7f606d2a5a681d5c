"""What the server makes of clients' messages, against transformers' rendering of the chat that is meant, through the wire."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest

from tests.runtime.template_styles import CHATML, GEMMA3, LLAMA3, QWEN2, QWEN3
from tests.runtime.test_as_transformers import transformers_prompt

USER = {"role": "user", "content": "q"}
REPLY = {"role": "assistant", "content": "A"}
PARTS = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
CASES: dict[str, tuple[str, list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]]] = {
    "developer": (QWEN2, [{"role": "developer", "content": "D"}, USER], [{"role": "system", "content": "D"}, USER], {}),
    "reasoning": (QWEN3, [USER, REPLY | {"reasoning": "R"}], [USER, REPLY | {"reasoning_content": "R"}], {}),
    "tool_calls null": (LLAMA3, [USER, REPLY | {"tool_calls": None}, USER], [USER, REPLY, USER], {}),
    "tool_calls empty": (LLAMA3, [USER, REPLY | {"tool_calls": []}, USER], [USER, REPLY, USER], {}),
    "parts as lines": (CHATML, [{"role": "user", "content": PARTS}], [{"role": "user", "content": "one\ntwo"}], {}),
    "parts as parts": (GEMMA3, [{"role": "user", "content": PARTS}], [{"role": "user", "content": PARTS}], {}),
    "continued": (CHATML, [USER, REPLY | {"content": "e"}], [USER, REPLY | {"content": "e"}], {"continue_final_message": True}),
    "continued, empty": (
        CHATML,
        [USER, REPLY | {"content": ""}],
        [USER, REPLY | {"content": ""}],
        {"continue_final_message": True},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_prompt_is_the_one_that_is_meant(run_server: Any, name: str) -> None:
    source, sent, meant, options = CASES[name]
    with run_server(template=source) as served:
        tokens = httpx.post(f"{served.url}/tokenize", json={"messages": sent, **options}).json()["tokens"]
        expected = transformers_prompt(source, meant, **(options or {"add_generation_prompt": True}))
        assert expected is not None
        assert tokens == served.tokenizer.encode(expected, add_special_tokens=False).ids
        answer = served.client().chat.completions.create(model="tiny", messages=sent, max_tokens=1, extra_body=options)
        assert answer.usage.prompt_tokens == len(tokens)


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ nothing.at.all }}",
        "{{ 'x' * 10 ** 9 }}",
        "{{ '%d' % 'x' }}",
    ],
)
def test_a_template_that_fails_is_one_400(run_server: Any, source: str) -> None:
    with run_server(template=source) as served:
        with pytest.raises(openai.BadRequestError, match="the chat template refused the messages: ") as refused:
            served.client().chat.completions.create(model="tiny", messages=[USER])
        assert refused.value.param == "messages"
        assert httpx.get(f"{served.url}/health").status_code == 200
