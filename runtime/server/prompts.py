"""What a request asks to be encoded -> token ids; refusals are RequestError."""

from __future__ import annotations

from runtime.answer.formats import AnswerFormats
from runtime.prompts import Prompts
from runtime.request import RequestError
from runtime.server.protocol_chat import ChatPrompt
from runtime.tools.described import with_tools
from runtime.tools.formats import NAMES


def render_chat(prompts: Prompts, formats: AnswerFormats, chat: ChatPrompt) -> str:
    """The text of the rendered template; it brings its own special tokens. RequestError for tools without a format."""
    messages = [message.model_dump(exclude_unset=True) for message in chat.messages]
    tools = chat.offer.tools or None
    if tools is not None and formats.tools is None:
        raise RequestError(
            f"tools need a tool format, and none fits this model's chat template; got {len(tools)} tools. Leave them out, or "
            f"serve the model with --tool-format and one of {', '.join(NAMES)}",
            "tools",
        )
    if tools is not None and formats.describes_tools:
        messages, tools = [dict(message) for message in with_tools(messages, tools)], None
    return prompts.render_chat(
        messages,
        add_generation_prompt=chat.add_generation_prompt,
        continue_final_message=chat.continue_final_message,
        tools=tools,
        variables=chat.template_variables,
    )


def truncate(token_ids: list[int], limit: int | None, max_model_len: int, num_answer_tokens: int) -> list[int]:
    """The last `limit` tokens; -1 stands for what the model's context leaves beside the answer, None for all."""
    if limit is None:
        return token_ids
    return token_ids[-(max(max_model_len - num_answer_tokens, 1) if limit == -1 else limit) :]
