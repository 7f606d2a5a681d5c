"""Chat messages -> prompt text, by the model's own Jinja template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import jinja2

from artifacts.errors import UserError
from runtime.answer.formats import AnswerFormats
from runtime.messages import CallForm, ContentForm, Message, normalized, refused
from runtime.request import RequestError
from runtime.template_probe import TemplateProbe
from runtime.template_sandbox import MAX_STEPS, TemplateEnvironment, mentioned
from runtime.tools.described import in_words, with_tools
from runtime.tools.formats import NAMES, PLAIN_JSON

__all__ = ["ChatTemplate", "Message", "special_tokens"]

#: What marks where a prompt is to end. A template that trims contents takes the space away, which is how one can tell.
_END_MARK = "COLDFORGE-CONTINUES-HERE "
_PROBE, _PROBE_KEY, _PROBE_STEPS = "Certainly", "coldforge_probe", 10_000
_ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})


class ChatTemplate:
    """A Jinja chat template as Hugging Face tokenizers carry it, in a sandbox.

    Of normalized messages (`runtime.messages`) it makes the text that `apply_chat_template` of transformers makes. Special
    tokens are variables of the template by their names, and undefined where the model has none. The rendered prompt holds them
    as text, the beginning of sequence included if the template wants one: encode it with add_special_tokens=False.
    `tool_format` and `reasoning_format` name how answers are written, if the template does not show it. Raises UserError if
    `source` is not a valid template.
    """

    def __init__(
        self,
        source: str,
        bos_token: str | None = None,
        eos_token: str | None = None,
        *,
        tool_format: str | None = None,
        reasoning_format: str | None = None,
        **special_tokens: str,
    ) -> None:
        self._environment = TemplateEnvironment()
        try:
            self._template = self._environment.from_string(source)
            self._mentioned = mentioned(source, self._environment)
        except jinja2.TemplateSyntaxError as error:
            raise UserError(f"the chat template is not valid Jinja: line {error.lineno}: {error.message}") from error
        except (SyntaxError, RecursionError) as error:  # of the Python that Jinja makes of it
            raise UserError(f"the chat template is not valid Jinja: {error}") from error
        named = {"bos_token": bos_token, "eos_token": eos_token, **special_tokens}
        self._special_tokens = {name: token for name, token in named.items() if token is not None}
        self._content_forms: dict[str, ContentForm] = {}
        self._probe = TemplateProbe(self._probed_chat)
        self._source = source
        self._format_names = tool_format, reasoning_format

    @cached_property
    def formats(self) -> AnswerFormats:
        """How answers are written: as it was named, else as the template shows. UserError for a name that is none."""
        return AnswerFormats.of(self._source, self.knows_tools, *self._format_names)

    @property
    def knows_tools(self) -> bool:
        """Whether it writes tools into the prompt, found by rendering one."""
        return self._probe.knows_tools

    @property
    def knows_calls(self) -> bool:
        """Whether it writes tool calls of earlier turns."""
        return self._probe.call_form is not None

    @property
    def call_form(self) -> CallForm:
        """How it reads tool calls, found by rendering one in each way."""
        return self._probe.call_form or CallForm()

    def mentions(self, name: str) -> bool:
        """Whether the template names this field of messages, or compares with this string."""
        return name in self._mentioned

    def content_form(self, role: str) -> ContentForm:
        """What the template reads contents of `role` as, found by rendering one of each; "text" if it refuses both.

        A role that chats do not have is taken for the user's.
        """
        role = role if role in _ROLES else "user"
        if role not in self._content_forms:
            as_text = self._probed(role, _PROBE)
            # A key that a template does not know shows where it writes the list itself, not the texts in it.
            as_parts = self._probed(role, [{"type": "text", "text": _PROBE, _PROBE_KEY: ""}])
            takes_parts = _PROBE in as_parts and _PROBE_KEY not in as_parts
            self._content_forms[role] = ("either" if _PROBE in as_text else "parts") if takes_parts else "text"
        return self._content_forms[role]

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt for `messages`, whose contents are strings or lists of text parts.

        `tools` are functions that the model may call. A template that knows tools gets them as they are; otherwise a system
        message describes them, and calls of earlier turns are texts.

        `continue_final_message` ends the prompt inside the last message, so that the model goes on with it; `variables` are
        further ones that the template may read. Raises RequestError on what the template, or this server, refuses.
        """
        if not messages:
            raise refused("messages must hold at least one message, got none")
        if add_generation_prompt and continue_final_message:
            raise refused("add_generation_prompt and continue_final_message exclude each other; got both true")
        variables = variables or {}
        own = {"messages", "add_generation_prompt", "bos_token", "eos_token", *self._special_tokens}
        own |= set() if tools is None else {"tools"}
        if taken := sorted(own & variables.keys()):
            raise refused(f"chat_template_kwargs may not set {', '.join(taken)}: the server sets them")
        if tools is not None:
            messages, variables = self._offered(messages, tools, variables)
        normal = normalized(self._readable(messages), self)
        if not continue_final_message:
            return self._rendered(normal, add_generation_prompt, variables)
        content, text = _marked(normal[-1].get("content"))
        normal[-1] = {**normal[-1], "content": content}
        return _cut_at_mark(self._rendered(normal, False, variables), text)

    def _rendered(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool,
        variables: Mapping[str, Any],
        max_steps: int = MAX_STEPS,
    ) -> str:
        known = {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": add_generation_prompt}
        try:
            return self._environment.render(self._template, {**known, **self._special_tokens, **variables}, max_steps)
        except Exception as error:  # a template is foreign code, and may raise what it likes
            raise refused(f"the chat template refused the messages: {error or type(error).__name__}") from error

    def _offered(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]
    ) -> tuple[Sequence[Message], Mapping[str, Any]]:
        """The chat and the template's variables with `tools`."""
        format = self.formats.tools
        if format is None:
            raise RequestError(
                f"tools need a tool format, and none fits this model's chat template; got {len(tools)} tools. Leave them out, "
                f"or serve the model with --tool-format and one of {', '.join(NAMES)}",
                "tools",
            )
        if self.knows_tools:
            return messages, {**variables, "tools": tools}
        return with_tools(messages, tools, format), variables

    def _readable(self, messages: Sequence[Message]) -> Sequence[Message]:
        """`messages`, with calls as texts if the template knows none."""
        has_calls = any(message.get("tool_calls") for message in messages)
        return in_words(messages, self.formats.tools or PLAIN_JSON) if has_calls and not self.knows_calls else messages

    def _probed_chat(self, messages: Sequence[Message], variables: Mapping[str, Any]) -> str:
        is_of_parts = self.content_form("user") == "parts"
        chat = [_in_parts(message) for message in messages] if is_of_parts else messages
        try:
            return self._rendered(chat, True, variables, _PROBE_STEPS)
        except RequestError:
            return ""

    def _probed(self, role: str, content: object) -> str:
        message: Message = {"role": role, "content": content}
        is_of_parts = role != "user" and self.content_form("user") == "parts"
        question: Message = {"role": "user", "content": [{"type": "text", "text": "Hi"}] if is_of_parts else "Hi"}
        chat = [message] if role == "user" else [message, question] if role == "system" else [question, message]
        try:
            return self._rendered(chat, True, {}, _PROBE_STEPS)
        except RequestError:
            return ""


def special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """The texts of a model's special tokens by their names, as a generation_config.json of ours has them: `bos_token` ..."""
    return {name: token for name, token in config.items() if name.endswith("_token") and isinstance(token, str)}


def _in_parts(message: Message) -> Message:
    content = message.get("content")
    return {**message, "content": [{"type": "text", "text": content}]} if content else message


def _marked(content: object) -> tuple[object, str]:
    """Content with the mark at the end of its last text, and that text."""
    if isinstance(content, str):
        return content + _END_MARK, content
    if isinstance(content, list) and content:
        *before, last = content
        return [*before, {**last, "text": last["text"] + _END_MARK}], last["text"]
    raise refused("continue_final_message needs a last message with content to continue, got none")


def _cut_at_mark(prompt: str, text: str) -> str:
    """`prompt` up to the mark; a template that trims contents keeps no space before it either, as in transformers."""
    mark = _END_MARK.rstrip()
    if mark not in prompt or text.strip() not in prompt:
        raise refused("continue_final_message needs a last message whose text the chat template keeps; it does not appear")
    before, _, after = prompt.rpartition(mark)
    return before if after.startswith(" ") else before.rstrip()
