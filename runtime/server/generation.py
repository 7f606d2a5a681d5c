"""A response's choices on their way through the engine."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace

from runtime.answer.reading import PLAIN, AnswerReading
from runtime.grammar import Grammar
from runtime.reasoning import Reasoning
from runtime.request import Request, RequestError
from runtime.server.admission import Overloaded
from runtime.server.caller import CALLER
from runtime.server.choice import Choice, Increment
from runtime.server.errors import ApiError, invalid
from runtime.server.metrics import SequenceClock
from runtime.server.protocol_generation import GenerationBody, StreamOptions, Usage
from runtime.server.request_log import log_of
from runtime.server.sampling import sampling_params
from runtime.server.service import Service
from runtime.server.structured import asked_grammar
from runtime.server.token_stream import EngineFailure, TokenStream


class Generation:
    """Close it in every case: what has not finished by then is aborted."""

    def __init__(
        self,
        id: str,
        model: str,
        fingerprint: str | None,
        choices: Sequence[Choice],
        stream: TokenStream,
        prompt_lengths: Sequence[int],
        log: Callable[[Sequence[Choice]], None],
    ) -> None:
        """`fingerprint` is that of the bundle. `log` is called with the choices once, when the generation is closed."""
        self.id = id
        self.created = int(time.time())
        self.model = model
        self.fingerprint = fingerprint
        self.choices = choices
        self._stream = stream
        self._prompt_lengths = prompt_lengths
        self._log = log
        self._reason_if_unfinished = "abort"

    async def increments(self) -> AsyncIterator[tuple[Choice, Increment]]:
        """What the choices gain, as it comes. Raises EngineFailure, RequestError, and Overloaded if they waited too long."""
        by_request_id = {choice.request_id: choice for choice in self.choices}
        try:
            async for output in self._stream:
                choice = by_request_id[output.request_id]
                increment = choice.push(output)
                if choice.finish_reason is not None:
                    self._stream.abort(choice.request_id)  # a stop string may end it before the engine does
                if increment is not None:
                    yield choice, increment
        except (EngineFailure, Overloaded, RequestError):
            self._reason_if_unfinished = "error"
            raise

    async def collect(self) -> list[Increment]:
        """All increments, merged: one per choice, in order. Raises as `increments` does."""
        parts: dict[int, list[Increment]] = {choice.index: [] for choice in self.choices}
        async for choice, increment in self.increments():
            parts[choice.index].append(increment)
        return [
            Increment(
                tuple(event for i in own for event in i.events), tuple(t for i in own for t in i.tokens), own[-1].finish_reason
            )
            for own in parts.values()
        ]

    def close(self) -> None:
        self._stream.close()
        for choice in self.choices:
            if choice.finish_reason is None:
                choice.clock.end(self._reason_if_unfinished)
        self._log(self.choices)

    def usage(self) -> Usage:
        """Counts so far. Of a prompt's choices, the first says how much of it was cached."""
        num_choices = len(self.choices) // len(self._prompt_lengths)
        return Usage.of(
            sum(self._prompt_lengths),
            sum(choice.num_generated_tokens for choice in self.choices),
            sum(choice.num_cached_tokens for choice in self.choices[::num_choices]),
            sum(choice.num_reasoning_tokens for choice in self.choices),
        )

    def chunk_usage(self, options: StreamOptions) -> dict[str, Usage | None]:
        """The usage field of a chunk of a stream: absent, null or the counts so far, as asked for."""
        if not options.include_usage:
            return {}
        return {"usage": self.usage() if options.continuous_usage_stats else None}


@dataclass(frozen=True)
class Prompt:
    """`echo_text`, if the prompt is to be echoed, begins its choices' texts, and their logprobs then cover it too.

    `reading` says how its answers are read. They are held to `grammar`; with `reasoning`, what comes after it. A grammar here
    counts instead of one that the body asks for.
    """

    token_ids: list[int]
    echo_text: str | None = None
    reading: AnswerReading = PLAIN
    grammar: Grammar | None = None
    reasoning: Reasoning | None = None


def too_long(num_tokens: int | str, max_model_len: int) -> ApiError:
    """The refusal of a prompt that leaves no room for an answer."""
    return invalid(
        f"a prompt must leave room in the model's context of {max_model_len} tokens, got {num_tokens}; shorten it",
        code="context_length_exceeded",
    )


async def start(
    service: Service,
    body: GenerationBody,
    num_prompts: int,
    encode: Callable[[], Sequence[Prompt]],
    *,
    num_bytes: int,
    id_prefix: str,
    max_tokens: int | None,
    default_max_tokens: int | None,
    may_fill_context: bool,
    logprobs: int | None,
) -> Generation:
    """Put n choices for each of the prompts that `encode` makes of `num_bytes` into the engine: all of them or none.

    A `default_max_tokens` of None is all that the model's context leaves; so is a larger `max_tokens` if the answer
    `may_fill_context`. Raises ApiError: 400 what can never run, 503; and
    Overloaded, before anything is encoded if that is known by then.
    """
    num_sequences, most = num_prompts * body.n, service.engine.max_num_sequences
    if num_sequences > most:
        raise invalid(
            f"a request may ask for at most {most} sequences here, got {num_prompts} prompts x n = {body.n}; send it in parts",
            "n" if num_prompts == 1 else "prompt",
        )
    service.engine.check_room(num_sequences)
    id = f"{id_prefix}-{uuid.uuid4().hex}"
    arrival_s = time.perf_counter()
    client = CALLER.get().client

    def prepare() -> tuple[list[Choice], list[Request], list[int], Callable[[Sequence[Choice]], None]]:
        choices: list[Choice] = []
        requests: list[Request] = []
        asked = asked_grammar(body)
        prompts = encode()
        for prompt in prompts:
            token_ids = prompt.token_ids
            room = service.engine.max_model_len - len(token_ids)
            if room < (0 if max_tokens == 0 else 1):
                raise too_long(len(token_ids), service.engine.max_model_len)
            grammar = prompt.grammar or asked
            constraint = None if grammar is None else service.grammars.compile(grammar)
            for i in range(body.n):
                params = sampling_params(
                    body,
                    service.defaults,
                    choice=i,
                    max_tokens=max_tokens,
                    default_max_tokens=room if default_max_tokens is None else default_max_tokens,
                    room=room,
                    may_fill_context=may_fill_context,
                    logprobs=logprobs,
                    prompt_logprobs=prompt.echo_text is not None and logprobs is not None,
                )
                stops = params.stop_token_ids | service.vocabulary.special_ids(body.stop or ())
                params = replace(params, stop_token_ids=stops)
                request = Request(
                    f"{id}-{len(requests)}",
                    token_ids,
                    params,
                    constraint,
                    prompt.reasoning,
                    priority=body.priority,
                    client=client,
                    cache_salt=body.cache_salt,
                )
                choices.append(
                    Choice(
                        index=len(requests),
                        request_id=request.id,
                        vocabulary=service.vocabulary,
                        prompt_token_ids=token_ids,
                        params=params,
                        body=body,
                        clock=SequenceClock(service.metrics, arrival_s),
                        echo_text=prompt.echo_text or "",
                        reading=prompt.reading,
                    )
                )
                requests.append(request)
        log = log_of(service.request_log, arrival_s, [prompt.token_ids for prompt in prompts])
        return choices, requests, [len(prompt.token_ids) for prompt in prompts], log

    choices, requests, prompt_lengths, log = await service.workers.run(num_bytes, prepare)
    try:
        stream = await service.engine.submit(requests)
    except EngineFailure as error:
        raise ApiError(503, str(error)) from error
    return Generation(id, service.model_name, service.fingerprint, choices, stream, prompt_lengths, log)
