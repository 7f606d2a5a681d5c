"""POST /v1/responses; GET and DELETE /v1/responses/{id}."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from fastapi import APIRouter, Request
from pydantic import TypeAdapter
from starlette.responses import JSONResponse
from starlette.responses import Response as HttpResponse

from runtime.answer.events import TextDelta
from runtime.server.caller import CALLER
from runtime.server.chat_generation import start_chat
from runtime.server.choice import Increment
from runtime.server.errors import invalid
from runtime.server.generation import Generation
from runtime.server.json_text import json_text
from runtime.server.protocol_chat import ChatCompletionBody
from runtime.server.protocol_generation import JsonObject, to_json
from runtime.server.protocol_responses import InputItem, ResponsesBody
from runtime.server.response_object import OutputItem, Response, ResponseEvent, ResponseUsage
from runtime.server.response_store import KeptResponse
from runtime.server.response_writer import ResponseWriter
from runtime.server.responses_translation import NAMES, input_items, to_chat
from runtime.server.service import Service
from runtime.server.streaming import EventStream, StreamForm, json_response, named_event
from runtime.server.token_logprobs import token_logprobs
from runtime.server.translated import named

_INPUT = TypeAdapter[list[InputItem]](list[InputItem])
_OUTPUT = TypeAdapter[list[OutputItem]](list[OutputItem])


def add(router: APIRouter, service: Service) -> None:
    """Put the routes on `router`."""

    @router.post("/v1/responses")
    async def responses(body: ResponsesBody, http: Request) -> HttpResponse:
        return await create_response(service, body, http)

    @router.get("/v1/responses/{id}")
    async def response(id: str, stream: bool = False) -> HttpResponse:
        if stream:
            raise invalid("stream must be false, got true: a stream that has ended is not kept; ask for the response", "stream")
        return HttpResponse(service.responses.get(id, CALLER.get().client).response, media_type="application/json")

    @router.delete("/v1/responses/{id}")
    async def delete(id: str) -> HttpResponse:
        service.responses.delete(id, CALLER.get().client)
        return JSONResponse({"id": id, "object": "response", "deleted": True})


async def create_response(service: Service, body: ResponsesBody, http: Request) -> HttpResponse:
    """The model's next items: JSON, or server-sent events."""
    service.check_model(body.model)
    service.check_accepting()
    before = b"[]"
    if body.previous_response_id is not None:
        before = service.responses.get(body.previous_response_id, CALLER.get().client, param="previous_response_id").items
    num_bytes = http.state.num_body_bytes + len(before)

    def translate() -> tuple[list[InputItem], ChatCompletionBody]:
        items = [*_INPUT.validate_json(before), *input_items(body)]
        return items, to_chat(body, items)

    items, chat = await service.workers.run(num_bytes, translate)
    with named(NAMES):
        generation = await start_chat(service, chat, num_bytes, "resp")
    answer = _Answer(generation, service, body, items, num_bytes)
    if body.stream:
        return EventStream(answer.said(), generation.close, service.keep_alive_s, answer.form)
    return await json_response(http.receive, answer.whole(), generation.close)


class _Answer:
    def __init__(
        self, generation: Generation, service: Service, body: ResponsesBody, items: list[InputItem], num_bytes: int
    ) -> None:
        self._generation = generation
        self._service = service
        self._body = body
        self._items = items
        self._num_bytes = num_bytes
        self._num_scored = 0
        self._writer = ResponseWriter(begun(generation, service, body))
        self.form = StreamForm(chunk=str, failure=self._failure)

    async def whole(self) -> str:
        async for _ in self._events():
            pass
        return await json_text(self._service.workers, lambda: self._writer.response, self._num_scored)

    async def said(self) -> AsyncIterator[str]:
        async for event in self._events():
            num_scored = self._num_scored if event.delta is None else len(event.logprobs or ())
            text = await json_text(self._service.workers, lambda said=event: said, num_scored)  # type: ignore[misc]
            yield named_event(event.type, text)

    async def _events(self) -> AsyncIterator[ResponseEvent]:
        for event in self._writer.begin():
            yield event
        async for _, increment in self._generation.increments():
            for event in self._written(increment):
                yield event
            if increment.finish_reason is not None:
                ending = list(self._writer.finish(increment.finish_reason, ResponseUsage.of(self._generation.usage())))
                await self._keep()
                for event in ending:
                    yield event

    def _written(self, increment: Increment) -> Iterator[ResponseEvent]:
        """The scores of an increment's tokens go with its first text."""
        tokens = increment.tokens if self._body.wants_logprobs else ()
        for part in increment.events:
            scores = []
            if isinstance(part, TextDelta) and tokens:
                scores, tokens = token_logprobs(self._service.vocabulary, tokens), ()
                self._num_scored += len(scores)
            yield from self._writer.push(part, scores)

    async def _keep(self) -> None:
        if not self._body.store:
            return
        response, client = self._writer.response, CALLER.get().client

        def keep() -> KeptResponse:
            items = (_INPUT.dump_json(self._items, exclude_unset=True), _OUTPUT.dump_json(response.output))
            joined = b"[%b]" % b",".join(part[1:-1] for part in items if part != b"[]")
            return KeptResponse(to_json(response).encode(), joined, client)

        self._service.responses.put(response.id, await self._service.workers.run(self._num_bytes, keep))

    def _failure(self, status: int, message: str, code: str | None) -> str:
        event = self._writer.fail("rate_limit_exceeded" if status == 503 else "server_error", message)
        return named_event(event.type, to_json(event))


def begun(generation: Generation, service: Service, body: ResponsesBody) -> Response:
    """The response before there is anything of it: it says again what was asked for, and the defaults that hold."""
    defaults = service.defaults

    def said(part: JsonObject) -> dict[str, Any]:
        return part.model_dump(by_alias=True, exclude_unset=True)

    def first(asked: float | None, default: float | None) -> float:
        return next(value for value in (asked, default, 1.0) if value is not None)

    return Response(
        id=generation.id.replace("-", "_"),
        created_at=generation.created,
        status="in_progress",
        instructions=body.instructions,
        max_output_tokens=body.max_output_tokens,
        metadata=body.metadata,
        model=generation.model,
        output=[],
        parallel_tool_calls=body.parallel_tool_calls,
        previous_response_id=body.previous_response_id,
        reasoning={"effort": None, "summary": None} | said(body.reasoning),
        store=body.store,
        temperature=first(body.chat_fields.get("temperature"), defaults.temperature),
        text={"format": {"type": "text"}, "verbosity": "medium"} | said(body.text),
        tool_choice=body.tool_choice if isinstance(body.tool_choice, str) else said(body.tool_choice),
        tools=[{"parameters": None, "strict": None} | said(tool) for tool in body.tools],
        top_logprobs=body.top_logprobs,
        top_p=first(body.chat_fields.get("top_p"), defaults.top_p),
        truncation=body.truncation,
        user=body.chat_fields.get("user"),
    )
