"""A response's choices on their way through the engine."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from runtime.engine import QueueFull
from runtime.request import Request
from runtime.server.async_engine import EngineFailure, TokenStream
from runtime.server.choice import Choice, Increment
from runtime.server.errors import ApiError, invalid
from runtime.server.metrics import SequenceClock
from runtime.server.protocol_generation import GenerationBody, StreamOptions, Usage
from runtime.server.sampling import sampling_params
from runtime.server.service import Service


class Generation:
    """Close it in every case: what has not finished by then is aborted."""

    def __init__(
        self, id: str, model: str, choices: Sequence[Choice], stream: TokenStream, prompt_lengths: Sequence[int]
    ) -> None:
        self.id = id
        self.created = int(time.time())
        self.model = model
        self.choices = choices
        self._stream = stream
        self._prompt_lengths = prompt_lengths
        self._reason_if_unfinished = "abort"

    async def increments(self) -> AsyncIterator[tuple[Choice, Increment]]:
        """What the choices gain, as it comes. Raises EngineFailure."""
        by_request_id = {choice.request_id: choice for choice in self.choices}
        try:
            async for output in self._stream:
                choice = by_request_id[output.request_id]
                increment = choice.push(output)
                if choice.finish_reason is not None:
                    self._stream.abort(choice.request_id)  # a stop string may end it before the engine does
                if increment is not None:
                    yield choice, increment
        except EngineFailure:
            self._reason_if_unfinished = "error"
            raise

    async def collect(self) -> list[Increment]:
        """All increments, merged: one per choice, in order. Raises EngineFailure."""
        parts: dict[int, list[Increment]] = {choice.index: [] for choice in self.choices}
        async for choice, increment in self.increments():
            parts[choice.index].append(increment)
        return [
            Increment("".join(i.text for i in own), tuple(t for i in own for t in i.tokens), own[-1].finish_reason)
            for own in parts.values()
        ]

    def close(self) -> None:
        self._stream.close()
        for choice in self.choices:
            if choice.finish_reason is None:
                choice.clock.end(self._reason_if_unfinished)

    def usage(self) -> Usage:
        """Counts so far. Of a prompt's choices, the first says how much of it was cached."""
        num_choices = len(self.choices) // len(self._prompt_lengths)
        return Usage.of(
            sum(self._prompt_lengths),
            sum(choice.num_generated_tokens for choice in self.choices),
            sum(choice.num_cached_tokens for choice in self.choices[::num_choices]),
        )

    def chunk_usage(self, options: StreamOptions) -> dict[str, Usage | None]:
        """The usage field of a chunk of a stream: absent, null or the counts so far, as asked for."""
        if not options.include_usage:
            return {}
        return {"usage": self.usage() if options.continuous_usage_stats else None}


async def start(
    service: Service,
    body: GenerationBody,
    prompts: Sequence[list[int]],
    *,
    id_prefix: str,
    max_tokens: int | None,
    default_max_tokens: int | None,
    logprobs: int | None,
    echo_texts: Sequence[str] = (),
) -> Generation:
    """Put n choices for each of `prompts` into the engine: all of them or none.

    `echo_texts`, one per prompt, begin the choices' texts, and logprobs then cover the prompts too. A `default_max_tokens` of
    None is all that the model's context leaves. Raises ApiError: 400 what can never run, 429 the queue is full, 503.
    """
    max_model_len = service.engine.max_model_len
    id = f"{id_prefix}-{uuid.uuid4().hex}"
    choices: list[Choice] = []
    requests: list[Request] = []
    for number, prompt in enumerate(prompts):
        room = max_model_len - len(prompt)
        if room < (0 if max_tokens == 0 else 1):
            raise invalid(
                f"a prompt must leave room in the model's context of {max_model_len} tokens, got {len(prompt)}; shorten it",
                code="context_length_exceeded",
            )
        for i in range(body.n):
            params = sampling_params(
                body,
                service.defaults,
                choice=i,
                max_tokens=max_tokens,
                default_max_tokens=room if default_max_tokens is None else default_max_tokens,
                room=room,
                logprobs=logprobs,
                prompt_logprobs=bool(echo_texts) and logprobs is not None,
            )
            params = replace(params, stop_token_ids=params.stop_token_ids | service.vocabulary.special_ids(body.stop or ()))
            request = Request(f"{id}-{len(requests)}", tuple(prompt), params)
            choices.append(
                Choice(
                    index=len(requests),
                    request_id=request.id,
                    vocabulary=service.vocabulary,
                    prompt_token_ids=prompt,
                    params=params,
                    body=body,
                    clock=SequenceClock(service.metrics),
                    echo_text=echo_texts[number] if echo_texts else "",
                )
            )
            requests.append(request)
    try:
        stream = await service.engine.submit(requests)
    except ValueError as error:
        raise invalid(str(error)) from error
    except QueueFull as error:
        raise ApiError(429, f"the queue is full: {error}", code="queue_full", retry_after_s=1) from error
    except EngineFailure as error:
        raise ApiError(503, str(error)) from error
    return Generation(id, service.model_name, choices, stream, [len(prompt) for prompt in prompts])
