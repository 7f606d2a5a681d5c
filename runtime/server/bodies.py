"""From the bytes of a request's body to its model, away from the event loop and within bounds on time and memory."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, get_type_hints

from fastapi import Request
from fastapi.routing import APIRoute
from pydantic import TypeAdapter
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from runtime.server import json_body
from runtime.server.admission import Overloaded
from runtime.server.errors import invalid
from runtime.server.metrics import ServerMetrics
from runtime.server.streaming import ClientDisconnected, unless_disconnected
from runtime.server.workers import Workers

#: Parsing holds Python's lock, so that all else waits for it: these and the body's size keep it to some tens of milliseconds.
MAX_NUM_PARTS = 32_768
MAX_NUM_VALUES = 262_144
_MAX_BYTES_HELD = 64 * 2**20
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)


class BodyReader:
    """Reads bodies; all that have not been parsed yet share 64 MiB."""

    def __init__(self, workers: Workers, metrics: ServerMetrics) -> None:
        self._workers = workers
        self._metrics = metrics
        self.num_bytes_held = 0

    async def read(self, request: Request, adapter: TypeAdapter[Any]) -> Any:
        """The body as `adapter` has it. Raises ApiError 400, Overloaded, ClientDisconnected."""
        content = bytearray()
        try:
            async for chunk in request.stream():
                content += chunk
                self.num_bytes_held += len(chunk)
                if self.num_bytes_held > _MAX_BYTES_HELD:
                    self._metrics.rejected.labels("bodies").inc()
                    raise Overloaded("too many large requests have come at once; come back later", "bodies")
            request.state.num_body_bytes = len(content)
            if content:
                json_body.check_content_type(request.headers.get("content-type", ""))
            parsing = self._workers.run(len(content), partial(parse, bytes(content), adapter))
            return await unless_disconnected(request.receive, parsing)
        except ClientDisconnect as error:
            raise ClientDisconnected from error
        finally:
            self.num_bytes_held -= len(content)


class BodyRoute(APIRoute):
    """A route whose endpoint takes its checked JSON body, if it has one, and the request, and returns a response.

    The application's state has the `BodyReader`, as `bodies`; the request's state then has the body's size, as
    `num_body_bytes`.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        if self.body_field is None:
            return super().get_route_handler()
        adapter = TypeAdapter[Any](get_type_hints(self.endpoint, include_extras=True)["body"])

        async def handle(request: Request) -> Response:
            response: Response = await self.endpoint(await request.app.state.bodies.read(request, adapter), request)
            return response

        return handle


def parse(content: bytes, adapter: TypeAdapter[Any]) -> Any:
    """As `json_body.parse`; ApiError 400, too, for what is too large a structure to look into."""
    num_parts, num_values = count(content)
    if num_parts > MAX_NUM_PARTS or num_values > MAX_NUM_VALUES:
        raise invalid(
            f"a request may hold at most {MAX_NUM_PARTS} strings, lists and objects and {MAX_NUM_VALUES} values in all; "
            "this one has more: send it in parts"
        )
    return json_body.parse(content, adapter)


def count(content: bytes) -> tuple[int, int]:
    """How many strings, lists and objects a JSON text holds, and how many values in all, or a little less than that.

    Stops at the limits, and where a string has no end. Unlike parsing it lets other threads run.
    """
    num_parts = num_values = position = 0
    while num_parts <= MAX_NUM_PARTS and num_values <= MAX_NUM_VALUES:
        quote = content.find(b'"', position)
        end = len(content) if quote < 0 else quote
        num_parts += content.count(b"[", position, end) + content.count(b"{", position, end)
        num_values += content.count(b",", position, end)
        string = _STRING.match(content, quote) if quote >= 0 else None
        if string is None:
            break
        num_parts += 1
        position = string.end()
    return num_parts, num_parts + num_values
