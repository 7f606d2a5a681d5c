"""Prompts of every accepted form -> token ids."""

from __future__ import annotations

from tokenizers import Tokenizer

from runtime.chat import ChatTemplate
from runtime.server.errors import invalid
from runtime.server.protocol_chat import ChatPrompt


class Prompts:
    """Encodes text and chats. Refusals are ApiError 400."""

    def __init__(self, tokenizer: Tokenizer, chat_template: ChatTemplate | None) -> None:
        self._tokenizer = tokenizer
        self._chat_template = chat_template
        # A tokenizer.json may carry the limits of its training; a server truncates only when it is asked to.
        tokenizer.no_truncation()
        tokenizer.no_padding()

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        """Ids of `text`. A beginning of sequence that the text already has is not added again."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
        if add_special_tokens and len(ids) > 1 and ids[0] == ids[1]:
            plain: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
            if plain[:1] == ids[:1] and ids[1 : 1 + len(plain)] == plain:
                return ids[1:]
        return ids

    def encode_chat(self, chat: ChatPrompt) -> list[int]:
        """Ids of the rendered template, which brings its own special tokens."""
        if self._chat_template is None:
            raise invalid("this model has no chat template; use /v1/completions", "messages")
        add_generation_prompt = chat.add_generation_prompt
        if add_generation_prompt is None:
            add_generation_prompt = not chat.continue_final_message
        try:
            text = self._chat_template.render(
                [message.model_dump(exclude_unset=True) for message in chat.messages],
                add_generation_prompt=add_generation_prompt,
                continue_final_message=chat.continue_final_message,
                variables=chat.chat_template_kwargs,
            )
        except ValueError as error:
            raise invalid(str(error), "messages") from error
        return self.encode(text, chat.add_special_tokens)


def truncate(token_ids: list[int], limit: int | None, max_model_len: int) -> list[int]:
    """The last `limit` tokens; -1 stands for the model's limit, None for all."""
    if limit is None:
        return token_ids
    return token_ids[-(max_model_len if limit == -1 else limit) :]
