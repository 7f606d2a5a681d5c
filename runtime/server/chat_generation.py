"""A chat's way into the engine: the one that every API of chats takes."""

from __future__ import annotations

from runtime.server.encoding import encode_chat
from runtime.server.generation import Generation, Prompt, start
from runtime.server.protocol_chat import ChatCompletionBody
from runtime.server.service import Service


async def start_chat(service: Service, body: ChatCompletionBody, num_bytes: int, id_prefix: str) -> Generation:
    """The answers to `body`, which came in `num_bytes`, under an id that begins with `id_prefix`. Raises as `start` does."""
    return await start(
        service,
        body,
        1,
        lambda: [Prompt(encode_chat(service, body))],
        num_bytes=num_bytes,
        id_prefix=id_prefix,
        max_tokens=body.answer_limit,
        default_max_tokens=None,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
    )
