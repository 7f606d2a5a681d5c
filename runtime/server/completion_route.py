"""POST /v1/completions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from functools import partial

from fastapi import APIRouter, Request
from starlette.responses import Response

from runtime.request import Logprobs
from runtime.server.choice import Increment, ScoredToken
from runtime.server.completion_generation import start_completion
from runtime.server.generation import Generation
from runtime.server.json_text import json_text
from runtime.server.protocol_completion import Completion, CompletionBody, CompletionChoice, CompletionLogprobs
from runtime.server.protocol_generation import StreamOptions, Usage, to_json
from runtime.server.service import Service
from runtime.server.streaming import EventStream, json_response


def add(router: APIRouter, service: Service) -> None:
    """Put the route on `router`."""

    @router.post("/v1/completions")
    async def completions(body: CompletionBody, http: Request) -> Response:
        return await create_completion(service, body, http)


async def create_completion(service: Service, body: CompletionBody, http: Request) -> Response:
    """The text that follows each prompt: JSON, or server-sent events."""
    service.check_model(body.model)
    service.check_accepting()
    generation = await start_completion(service, body, http.state.num_body_bytes)
    answer = _Answer(generation, service, wants_logprobs=body.logprobs is not None)
    if body.stream:
        return EventStream(answer.chunks(body.stream_options), generation.close, service.keep_alive_s)
    return await json_response(http.receive, answer.whole(), generation.close)


class _Answer:
    def __init__(self, generation: Generation, service: Service, wants_logprobs: bool) -> None:
        self._generation = generation
        self._workers = service.workers
        self._vocabulary = service.vocabulary
        self._wants_logprobs = wants_logprobs

    async def whole(self) -> str:
        wholes = await self._generation.collect()

        def build() -> Completion:
            choices = [self._choice(index, whole) for index, whole in enumerate(wholes)]
            return self._completion(choices, {"usage": self._generation.usage()})

        return await json_text(self._workers, build, sum(len(whole.tokens) for whole in wholes))

    async def chunks(self, options: StreamOptions) -> AsyncIterator[str]:
        async for choice, increment in self._generation.increments():
            usage = self._generation.chunk_usage(options)
            build = partial(self._chunk, choice.index, increment, usage)
            yield await json_text(self._workers, build, len(increment.tokens))
        if options.include_usage:
            yield to_json(self._completion([], {"usage": self._generation.usage()}))

    def _chunk(self, index: int, increment: Increment, usage: dict[str, Usage | None]) -> Completion:
        return self._completion([self._choice(index, increment)], usage)

    def _completion(self, choices: list[CompletionChoice], usage: dict[str, Usage | None]) -> Completion:
        generation = self._generation
        return Completion(
            id=generation.id,
            object="text_completion",
            created=generation.created,
            model=generation.model,
            system_fingerprint=generation.fingerprint,
            choices=choices,
            **usage,
        )

    def _choice(self, index: int, increment: Increment) -> CompletionChoice:
        logprobs = self._logprobs(increment.tokens) if self._wants_logprobs else None
        return CompletionChoice(index=index, text=increment.text, logprobs=logprobs, finish_reason=increment.finish_reason)

    def _logprobs(self, tokens: Sequence[ScoredToken]) -> CompletionLogprobs:
        text = self._vocabulary.token_text
        return CompletionLogprobs(
            tokens=[text(token.token_id) for token in tokens],
            token_logprobs=[None if token.logprobs is None else token.logprobs.logprob for token in tokens],
            top_logprobs=[None if token.logprobs is None else self._top(token.logprobs) for token in tokens],
            text_offset=[token.text_offset for token in tokens],
        )

    def _top(self, logprobs: Logprobs) -> dict[str, float]:
        """The most likely tokens and, as in OpenAI's answers, the token itself. Of two with one text the likelier counts."""
        top: dict[str, float] = {}
        for token_id, logprob in (*logprobs.top, (logprobs.token_id, logprobs.logprob)):
            top.setdefault(self._vocabulary.token_text(token_id), logprob)
        return top
