"""Texts and chats -> token ids, as the server and everything that must agree with it encode them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer

from runtime.answer.formats import AnswerFormats
from runtime.chat import ChatTemplate, Message
from runtime.messages import refused


class Prompts:
    """Encodes texts and chats; `tokenizer` loses the limits of its training, because a prompt is cut only on request."""

    def __init__(self, tokenizer: Tokenizer, chat_template: ChatTemplate | None) -> None:
        self.tokenizer = tokenizer
        self.chat_template = chat_template
        tokenizer.no_truncation()
        tokenizer.no_padding()

    @property
    def formats(self) -> AnswerFormats:
        """How answers to chats are written."""
        return AnswerFormats() if self.chat_template is None else self.chat_template.formats

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Ids of `text`. A beginning of sequence that the text already has is not added again."""
        ids = self._ids(text, add_special_tokens)
        if add_special_tokens and len(ids) > 1 and ids[0] == ids[1]:
            plain = self._ids(text, False)
            if plain[:1] == ids[:1] and ids[1 : 1 + len(plain)] == plain:
                return ids[1:]
        return ids

    def _ids(self, text: str, add_special_tokens: bool) -> list[int]:
        # Unlike `encode` this lets other threads run meanwhile.
        (encoding,) = self.tokenizer.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        ids: list[int] = encoding.ids
        return ids

    def render_chat(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool | None = None,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt's text; `add_generation_prompt` left open means: unless the last message is continued.

        RequestError without a chat template, or on what it refuses.
        """
        if self.chat_template is None:
            raise refused("this model has no chat template; use /v1/completions")
        if add_generation_prompt is None:
            add_generation_prompt = not continue_final_message
        return self.chat_template.render(
            messages,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            tools=tools,
            variables=variables,
        )

    def encode_chat(
        self,
        messages: Sequence[Message],
        *,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> list[int]:
        """Ids of the rendered template, which brings its own special tokens. Raises as `render_chat` does."""
        text = self.render_chat(messages, continue_final_message=continue_final_message, tools=tools)
        return self.encode(text, add_special_tokens=False)
