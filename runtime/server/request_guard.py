"""What every request passes before a route sees it: the key, bounds on its body, the count of its response. Plain ASGI."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runtime.server.api_key import ApiKey
from runtime.server.errors import ApiError, error_body
from runtime.server.metrics import ServerMetrics

_OPEN_PATHS = frozenset({"/", "/health", "/metrics", "/version"})

#: How long the rest of a refused body is taken in and dropped, in all and while nothing comes. A socket that is closed
#: with bytes unread is reset, and a reset can overtake the answer.
_LINGER_S = 10.0
_LINGER_IDLE_S = 1.0


class RequestGuard:
    """401 without the key, 413 for a body over the limit, 408 for one that is not whole in time. `api_key` None lets all in."""

    def __init__(
        self, app: ASGIApp, *, api_key: ApiKey | None, max_body_bytes: int, body_timeout_s: float, metrics: ServerMetrics
    ) -> None:
        self._app = app
        self._api_key = api_key
        self._max_body_bytes = max_body_bytes
        self._body_timeout_s = body_timeout_s
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        body = _Body(receive, self._max_body_bytes, self._body_timeout_s)
        closing = False

        async def checked_send(message: Message) -> None:
            nonlocal closing
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "other")  # never the raw path: clients choose that
                self._metrics.responses.labels(route, message["status"]).inc()
                closing = Headers(raw=message["headers"]).get("connection") == "close"
            elif closing and not message.get("more_body", False):
                await send({**message, "more_body": True})
                await body.drop()
                message = {"type": "http.response.body"}
            await send(message)

        await (self._refusal(scope) or self._app)(scope, body.receive, checked_send)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        headers = Headers(scope=scope)
        key = None if scope["path"] in _OPEN_PATHS else self._api_key
        if key is not None and not any(key.is_in(shown) for shown in _shown(headers)):
            message = "the API key is missing or wrong; send it as Authorization: Bearer KEY, or as x-api-key: KEY"
            return JSONResponse(
                error_body(401, message, code="invalid_api_key", path=scope["path"]), 401, {"WWW-Authenticate": "Bearer"}
            )
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > self._max_body_bytes:
            # The body is not read, so the connection cannot be used again.
            return JSONResponse(
                error_body(413, _too_large(self._max_body_bytes), path=scope["path"]), 413, {"Connection": "close"}
            )
        return None


def _shown(headers: Headers) -> tuple[str, str]:
    """The keys that a request shows, as `Authorization` has them: Anthropic's clients have a header of their own."""
    return headers.get("authorization", ""), f"Bearer {headers.get('x-api-key', '')}"


class _Body:
    """A request's body as it arrives: it may come without a length, or without an end."""

    def __init__(self, receive: Receive, max_num_bytes: int, timeout_s: float) -> None:
        self._receive = receive
        self._max_num_bytes = max_num_bytes
        self._timeout_s = timeout_s
        self._deadline_s = asyncio.get_running_loop().time() + timeout_s
        self._num_bytes = 0
        self._is_whole = False

    async def receive(self) -> Message:
        """The next message, in time and within the limit. Raises ApiError 408, 413."""
        try:
            async with asyncio.timeout_at(None if self._is_whole else self._deadline_s):
                message = await self._receive()
        except TimeoutError as error:
            raise _unread(408, self._too_slow()) from error
        self._is_whole = not message.get("more_body", False)
        self._num_bytes += len(message.get("body", b""))
        if self._num_bytes > self._max_num_bytes:
            raise _unread(413, _too_large(self._max_num_bytes))
        return message

    async def drop(self) -> None:
        """Reads and drops what still comes, for a while."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_S):
                while not self._is_whole:
                    async with asyncio.timeout(_LINGER_IDLE_S):
                        self._is_whole = not (await self._receive()).get("more_body", False)

    def _too_slow(self) -> str:
        return f"a request body must be whole within {self._timeout_s:g} s; of this one {self._num_bytes} bytes had come"


def _too_large(max_num_bytes: int) -> str:
    return f"a request body may have at most {max_num_bytes} bytes here; send it in parts"


def _unread(status_code: int, message: str) -> ApiError:
    """A refusal before the body has been read: the connection cannot be used again."""
    error = ApiError(status_code, message)
    error.headers = {"Connection": "close"}
    return error
