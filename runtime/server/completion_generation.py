"""What follows a completion's prompts, on its way through the engine."""

from __future__ import annotations

from runtime.server.encoding import encode_text
from runtime.server.generation import Generation, Prompt, start
from runtime.server.prompts import truncate
from runtime.server.protocol_completion import CompletionBody
from runtime.server.service import Service

_DEFAULT_MAX_TOKENS = 16


async def start_completion(service: Service, body: CompletionBody, num_bytes: int) -> Generation:
    """The answers to the prompts of a body of `num_bytes`, begun. Raises as `start` does."""
    given = body.prompts
    return await start(
        service,
        body,
        len(given),
        lambda: [_encode(service, body, prompt) for prompt in given],
        num_bytes=num_bytes,
        id_prefix="cmpl",
        max_tokens=body.max_tokens,
        default_max_tokens=_DEFAULT_MAX_TOKENS,
        may_fill_context=False,
        logprobs=body.logprobs,
    )


def _encode(service: Service, body: CompletionBody, given: str | list[int]) -> Prompt:
    cut = body.truncate_prompt_tokens
    whole = encode_text(service, given, body.add_special_tokens, cut) if isinstance(given, str) else given
    prompt = truncate(whole, cut, service.engine.max_model_len, body.num_answer_tokens)
    if not body.echo:
        return Prompt(prompt)
    if isinstance(given, str) and prompt == whole:
        return Prompt(prompt, given)
    vocabulary = service.vocabulary
    return Prompt(prompt, vocabulary.decode(vocabulary.visible(prompt, skip_special_tokens=True)))
