"""Chat messages -> prompt text, by the model's own Jinja template."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

Message = Mapping[str, Any]
_OWN_VARIABLES = frozenset({"messages", "add_generation_prompt", "bos_token", "eos_token"})


class ChatTemplate:
    """A Jinja chat template as Hugging Face tokenizers carry it, in a sandbox.

    The rendered prompt holds its special tokens as text, the beginning of sequence included if the template wants one:
    encode it with add_special_tokens=False. Raises ValueError if `source` is not a valid template.
    """

    def __init__(self, source: str, bos_token: str = "", eos_token: str = "") -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise ValueError(f"the chat template is not valid Jinja: line {error.lineno}: {error.message}") from error
        self._special_tokens = {"bos_token": bos_token, "eos_token": eos_token}

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt for `messages`, whose contents are strings or lists of text parts.

        `continue_final_message` ends the prompt inside the last message, so that the model goes on with it; `variables` are
        further ones that the template may read. Raises ValueError on what the template, or this server, refuses.
        """
        if not messages:
            raise ValueError("messages must hold at least one message, got none")
        if add_generation_prompt and continue_final_message:
            raise ValueError("add_generation_prompt and continue_final_message exclude each other; got both true")
        variables = variables or {}
        if taken := sorted(_OWN_VARIABLES & variables.keys()):
            raise ValueError(f"chat_template_kwargs may not set {', '.join(taken)}: the server sets them")
        flat = [{**message, "content": _text_of(message.get("content"))} for message in messages]
        try:
            prompt = self._template.render(
                messages=flat, add_generation_prompt=add_generation_prompt, **self._special_tokens, **variables
            )
        except (jinja2.TemplateError, TypeError, ArithmeticError, LookupError) as error:
            raise ValueError(f"the chat template refused the messages: {error}") from error
        return _cut_after(prompt, flat[-1]["content"]) if continue_final_message else prompt


def _text_of(content: object) -> str | None:
    """String content as it is; text parts joined by line breaks."""
    if content is None or isinstance(content, str):
        return content
    assert isinstance(content, Sequence)
    for part in content:
        if part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise ValueError(f"content parts must be of type 'text', got {part.get('type')!r}: only text is supported here")
    return "\n".join(part["text"] for part in content)


def _cut_after(prompt: str, content: str | None) -> str:
    """`prompt` up to the end of its last message's content, which a template may have stripped."""
    for wanted in (content or "", (content or "").strip()):
        if wanted and wanted in prompt:
            return prompt[: prompt.rindex(wanted) + len(wanted)]
    raise ValueError("continue_final_message needs a last message whose text the chat template keeps; it does not appear")


def _to_json(value: object, indent: int | None = None, ensure_ascii: bool = False, **options: Any) -> str:
    """Unlike Jinja's own filter: no HTML escapes, which are noise to a language model."""
    return json.dumps(value, indent=indent, ensure_ascii=ensure_ascii, **options)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


class _GenerationBlock(Extension):
    """`{% generation %} ... {% endgeneration %}` marks the assistant's tokens for training; to a server it is its content."""

    tags = {"generation"}  # noqa: RUF012 -- jinja2's own declaration

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)
