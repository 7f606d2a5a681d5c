"""A chat's answer on its way through the engine: what every API that chats starts."""

from __future__ import annotations

from runtime.server.encoding import encode_chat
from runtime.server.generation import Generation, start
from runtime.server.protocol_chat import ChatCompletionBody
from runtime.server.service import Service


async def start_chat(
    service: Service, body: ChatCompletionBody, num_bytes: int, id_prefix: str, *, may_fill_context: bool = False
) -> Generation:
    """The assistant's next message, begun; the answer fills the context unless it is limited.

    `num_bytes` is the size of what is encoded. A limit above what the context leaves is refused unless the answer
    `may_fill_context`. Raises as `start` does.
    """
    return await start(
        service,
        body,
        1,
        lambda: [encode_chat(service, body)],
        num_bytes=num_bytes,
        id_prefix=id_prefix,
        max_tokens=body.answer_limit,
        default_max_tokens=None,
        may_fill_context=may_fill_context,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
    )
