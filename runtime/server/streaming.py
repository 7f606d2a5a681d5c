"""Server-sent events, and work that ends when its client leaves."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from runtime.request import RequestError
from runtime.server.admission import Overloaded
from runtime.server.errors import error_body
from runtime.server.token_stream import EngineFailure
from runtime.server.workers import Workers

T = TypeVar("T")
logger = logging.getLogger(__name__)


class ClientDisconnected(Exception):
    """The client has left before its answer."""


async def unless_disconnected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """`work`'s result; it is cancelled and ClientDisconnected raised if the client leaves first."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnected
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def json_response(receive: Receive, work: Coroutine[Any, Any, str], close: Callable[[], None]) -> Response:
    """`work`'s result, which is JSON. Raises ClientDisconnected; `close` is called in every case."""
    try:
        return Response(await unless_disconnected(receive, work), media_type="application/json")
    finally:
        close()


async def json_from_worker(workers: Workers, http: Request, answer: Callable[[], str]) -> Response:
    """What `answer` returns, which is JSON, worked out by a thread in the lane of the request's size."""
    return await json_response(http.receive, workers.run(http.state.num_body_bytes, answer), close=lambda: None)


@dataclass(frozen=True)
class StreamForm:
    """How an API words a stream: a chunk, a failure on the way (status, message, code), a sign of life, the end."""

    chunk: Callable[[str], str]
    failure: Callable[[int, str, str | None], str]
    alive: str = ": keep-alive\n\n"
    end: str = ""


#: An event's line ends at CR or LF alone, but readers of lines, such as httpx's, end one at these too.
_ESCAPED = {mark: f"\\u{ord(mark):04x}" for mark in "\x85\u2028\u2029"}


def _data(chunk: str) -> str:
    for mark, escape in _ESCAPED.items():
        chunk = chunk.replace(mark, escape)
    return f"data: {chunk}\n\n"


def named_event(name: str, data: str) -> str:
    """An event with its name before its data, JSON, as the APIs have it that name their events."""
    return f"event: {name}\n{_data(data)}"


#: `data: <chunk>` for each chunk, then `data: [DONE]`; a failure is a chunk `{"error": ...}`
DATA = StreamForm(
    chunk=_data,
    failure=lambda status, message, code: _data(json.dumps(error_body(status, message, code=code))),
    end=_data("[DONE]"),
)


class EventStream(Response):
    """Server-sent events. A comment says that the stream lives whenever it has had nothing else to say for a while."""

    media_type = "text/event-stream"

    def __init__(
        self, chunks: AsyncIterator[str], close: Callable[[], None], keep_alive_s: float, form: StreamForm = DATA
    ) -> None:
        """`close` is called once the stream has ended, in whatever way."""
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._chunks = chunks
        self._close = close
        self._keep_alive_s = keep_alive_s
        self._form = form

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await unless_disconnected(receive, self._send_all(send))
        except ClientDisconnected:
            logger.info("a client left its stream; its requests are aborted")
        finally:
            self._close()

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for event in self._events():
            await send({"type": "http.response.body", "body": event.encode(), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _events(self) -> AsyncIterator[str]:
        said = self._said()
        coming: asyncio.Future[str] | None = None
        try:
            while True:
                coming = coming or asyncio.ensure_future(anext(said))
                await asyncio.wait((coming,), timeout=self._keep_alive_s)
                if not coming.done():
                    yield self._form.alive
                    continue
                done, coming = coming, None
                try:
                    yield done.result()
                except StopAsyncIteration:
                    return
        finally:
            if coming is not None:
                coming.cancel()
                await asyncio.gather(coming, return_exceptions=True)

    async def _said(self) -> AsyncIterator[str]:
        try:
            async for chunk in self._chunks:
                yield self._form.chunk(chunk)
        except Overloaded as error:
            yield self._form.failure(503, str(error), error.reason)
        except RequestError as error:
            yield self._form.failure(400, str(error), None)
        except EngineFailure as error:
            yield self._form.failure(500, str(error), None)
        except Exception as error:
            logger.exception("a stream failed")
            yield self._form.failure(500, f"the server failed: {type(error).__name__}", None)
        if self._form.end:
            yield self._form.end
