"""What a request asks to be encoded -> token ids; refusals are RequestError."""

from __future__ import annotations

from runtime.prompts import Prompts
from runtime.server.protocol_chat import ChatPrompt


def render_chat(prompts: Prompts, chat: ChatPrompt) -> str:
    """The text of the rendered template; it brings its own special tokens."""
    return prompts.render_chat(
        [message.model_dump(exclude_unset=True) for message in chat.messages],
        add_generation_prompt=chat.add_generation_prompt,
        continue_final_message=chat.continue_final_message,
        tools=chat.offer.tools or None,
        variables=chat.template_variables,
    )


def truncate(token_ids: list[int], limit: int | None, max_model_len: int, num_answer_tokens: int) -> list[int]:
    """The last `limit` tokens; -1 stands for what the model's context leaves beside the answer, None for all."""
    if limit is None:
        return token_ids
    return token_ids[-(max(max_model_len - num_answer_tokens, 1) if limit == -1 else limit) :]
