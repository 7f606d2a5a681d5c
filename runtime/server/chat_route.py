"""POST /v1/chat/completions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from functools import partial

from fastapi import APIRouter, Request
from starlette.responses import Response

from runtime.answer.events import EndReason
from runtime.answer.whole import Answer
from runtime.server.chat_generation import start_chat
from runtime.server.chat_words import delta, message
from runtime.server.choice import Increment, ScoredToken
from runtime.server.generation import Generation
from runtime.server.json_text import json_text
from runtime.server.protocol_chat import (
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatCompletionBody,
    ChatLogprobs,
    Delta,
)
from runtime.server.protocol_generation import StreamOptions, Usage, to_json
from runtime.server.service import Service
from runtime.server.streaming import EventStream, json_response
from runtime.server.token_logprobs import token_logprobs


def add(router: APIRouter, service: Service) -> None:
    """Put the route on `router`."""

    @router.post("/v1/chat/completions")
    async def chat_completions(body: ChatCompletionBody, http: Request) -> Response:
        return await create_chat_completion(service, body, http)


async def create_chat_completion(service: Service, body: ChatCompletionBody, http: Request) -> Response:
    """The assistant's next message: JSON, or server-sent events."""
    service.check_model(body.model)
    service.check_accepting()
    generation = await start_chat(service, body, http.state.num_body_bytes, "chatcmpl")
    answer = _Answer(generation, service, wants_logprobs=body.logprobs)
    if body.stream:
        return EventStream(answer.chunks(body.stream_options), generation.close, service.keep_alive_s)
    return await json_response(http.receive, answer.whole(), generation.close)


def _parts(increment: Increment) -> Iterator[Increment]:
    """One for each event: accumulators of clients take one thing at a time. The first has the scores, the last the end."""
    if len(increment.events) < 2:
        yield increment
        return
    *before, last = increment.events
    tokens = increment.tokens
    for event in before:
        yield Increment((event,), tokens, None)
        tokens = ()
    yield Increment((last,), tokens, increment.finish_reason)


class _Answer:
    def __init__(self, generation: Generation, service: Service, wants_logprobs: bool) -> None:
        self._generation = generation
        self._workers = service.workers
        self._vocabulary = service.vocabulary
        self._wants_logprobs = wants_logprobs

    async def whole(self) -> str:
        wholes = await self._generation.collect()
        return await json_text(self._workers, partial(self._completion, wholes), sum(len(whole.tokens) for whole in wholes))

    def _completion(self, wholes: Sequence[Increment]) -> ChatCompletion:
        choices = []
        for index, whole in enumerate(wholes):
            assert whole.finish_reason is not None
            choices.append(
                ChatChoice(
                    index=index,
                    message=message(Answer.of(whole.events)),
                    logprobs=self._logprobs(whole.tokens),
                    finish_reason=whole.finish_reason,
                )
            )
        return ChatCompletion(
            id=self._generation.id,
            object="chat.completion",
            created=self._generation.created,
            model=self._generation.model,
            system_fingerprint=self._generation.fingerprint,
            choices=choices,
            usage=self._generation.usage(),
        )

    async def chunks(self, options: StreamOptions) -> AsyncIterator[str]:
        usage = self._generation.chunk_usage
        introduced: set[int] = set()
        async for choice, increment in self._generation.increments():
            if choice.index not in introduced:
                introduced.add(choice.index)
                opening = Delta(role="assistant", content="")
                yield to_json(self._chunk([self._part(choice.index, opening, (), None)], usage(options)))
            for part in _parts(increment):
                build = partial(self._increment, choice.index, part, usage(options))
                yield await json_text(self._workers, build, len(part.tokens))
        if options.include_usage:
            yield to_json(self._chunk([], {"usage": self._generation.usage()}))

    def _increment(self, index: int, increment: Increment, usage: dict[str, Usage | None]) -> ChatChunk:
        (event,) = increment.events or (None,)
        return self._chunk([self._part(index, delta(event), increment.tokens, increment.finish_reason)], usage)

    def _chunk(self, choices: list[ChatChunkChoice], usage: dict[str, Usage | None]) -> ChatChunk:
        generation = self._generation
        return ChatChunk(
            id=generation.id,
            object="chat.completion.chunk",
            created=generation.created,
            model=generation.model,
            system_fingerprint=generation.fingerprint,
            choices=choices,
            **usage,
        )

    def _part(
        self, index: int, delta: Delta, tokens: Sequence[ScoredToken], finish_reason: EndReason | None
    ) -> ChatChunkChoice:
        logprobs = self._logprobs(tokens) if tokens else None
        return ChatChunkChoice(index=index, delta=delta, logprobs=logprobs, finish_reason=finish_reason)

    def _logprobs(self, tokens: Sequence[ScoredToken]) -> ChatLogprobs | None:
        if not self._wants_logprobs:
            return None
        return ChatLogprobs(content=token_logprobs(self._vocabulary, tokens))
