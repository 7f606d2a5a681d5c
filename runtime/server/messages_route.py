"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's API."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

from fastapi import APIRouter, Request
from starlette.responses import Response

from runtime.server.chat_generation import start_chat
from runtime.server.encoding import encode_chat
from runtime.server.errors import error_body
from runtime.server.generation import Generation
from runtime.server.messages_translation import NAMES, to_chat
from runtime.server.messages_writer import MessageWriter
from runtime.server.protocol_generation import to_json
from runtime.server.protocol_messages import (
    AnsweredMessage,
    CountTokensBody,
    MessageEvent,
    MessagesBody,
    MessageUsage,
    TokenCount,
)
from runtime.server.service import Service
from runtime.server.streaming import EventStream, StreamForm, json_from_worker, json_response, named_event
from runtime.server.translated import named

PATH = "/v1/messages"


def add(router: APIRouter, service: Service) -> None:
    """Put the routes on `router`."""

    @router.post(PATH)
    async def messages(body: MessagesBody, http: Request) -> Response:
        return await create_message(service, body, http)

    @router.post(f"{PATH}/count_tokens", response_model=TokenCount)
    async def count_tokens(body: CountTokensBody, http: Request) -> Response:
        service.check_model(body.model)
        return await json_from_worker(service.workers, http, lambda: to_json(counted(service, body)))


def counted(service: Service, body: CountTokensBody) -> TokenCount:
    """How long the prompt would be. Raises ApiError 400, RequestError."""
    with named(NAMES):
        return TokenCount(input_tokens=len(encode_chat(service, to_chat(body)).token_ids))


async def create_message(service: Service, body: MessagesBody, http: Request) -> Response:
    """The assistant's next message: JSON, or server-sent events."""
    service.check_model(body.model)
    service.check_accepting()
    num_bytes = http.state.num_body_bytes
    chat = await service.workers.run(num_bytes, lambda: to_chat(body))
    with named(NAMES):
        generation = await start_chat(service, chat, num_bytes, "msg", may_fill_context=True)
    answer = _Answer(generation, body.max_tokens)
    if body.stream:
        return EventStream(answer.said(), generation.close, service.keep_alive_s, _FORM)
    return await json_response(http.receive, answer.whole(), generation.close)


class _Answer:
    def __init__(self, generation: Generation, max_tokens: int) -> None:
        self._generation, self._max_tokens = generation, max_tokens
        message = AnsweredMessage(id=generation.id.replace("-", "_"), model=generation.model, content=[], usage=self._usage())
        self._writer = MessageWriter(message)

    async def whole(self) -> str:
        async for _ in self._events():
            pass
        return to_json(self._writer.message)

    async def said(self) -> AsyncIterator[str]:
        async for event in self._events():
            yield named_event(event.type, to_json(event))

    async def _events(self) -> AsyncIterator[MessageEvent]:
        for event in self._writer.begin():
            yield event
        async for choice, increment in self._generation.increments():
            for part in increment.events:
                for event in self._writer.push(part):
                    yield event
            if increment.finish_reason is not None:
                reason, stop, usage = increment.finish_reason, choice.stop_string, self._usage()
                for event in self._writer.finish(reason, stop, usage, max_tokens=self._max_tokens):
                    yield event

    def _usage(self) -> MessageUsage:
        return MessageUsage.of(self._generation.usage())


def _failure(status: int, message: str, code: str | None) -> str:
    return named_event("error", json.dumps(error_body(status, message, code=code, path=PATH)))


_FORM = StreamForm(chunk=str, failure=_failure, alive=named_event("ping", '{"type": "ping"}'))
