"""What every request passes before a route sees it: the key, bounds on its body, the count of its response. Plain ASGI."""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runtime.server.api_key import ApiKey
from runtime.server.errors import ApiError, error_body
from runtime.server.metrics import ServerMetrics

_OPEN_PATHS = frozenset({"/health", "/metrics", "/version"})


class Gate:
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

        async def counted_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "other")  # never the raw path: clients choose that
                self._metrics.responses.labels(route, message["status"]).inc()
            await send(message)

        refusal = self._refusal(scope)
        if refusal is None:
            await self._app(scope, self._limited(receive), counted_send)
        else:
            await refusal(scope, receive, counted_send)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        headers = Headers(scope=scope)
        key = None if scope["path"] in _OPEN_PATHS else self._api_key
        if key is not None and not key.is_in(headers.get("authorization", "")):
            message = "the API key is missing or wrong; send it as Authorization: Bearer KEY"
            return JSONResponse(error_body(401, message, code="invalid_api_key"), 401, {"WWW-Authenticate": "Bearer"})
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > self._max_body_bytes:
            # The body is not read, so the connection cannot be used again.
            return JSONResponse(error_body(413, self._too_large()), 413, {"Connection": "close"})
        return None

    def _limited(self, receive: Receive) -> Receive:
        """Bodies may come without a length, or without an end: count what arrives, and how long it takes."""
        num_bytes = 0
        deadline_s: float | None = asyncio.get_running_loop().time() + self._body_timeout_s

        async def limited() -> Message:
            nonlocal num_bytes, deadline_s
            try:
                async with asyncio.timeout_at(deadline_s):
                    message = await receive()
            except TimeoutError as error:
                raise _unread(408, self._too_slow(num_bytes)) from error
            if not message.get("more_body", False):
                deadline_s = None
            num_bytes += len(message.get("body", b""))
            if num_bytes > self._max_body_bytes:
                raise _unread(413, self._too_large())
            return message

        return limited

    def _too_large(self) -> str:
        return f"a request body may have at most {self._max_body_bytes} bytes here; send it in parts"

    def _too_slow(self, num_bytes: int) -> str:
        return f"a request body must be whole within {self._body_timeout_s:g} s; of this one {num_bytes} bytes had come"


def _unread(status_code: int, message: str) -> ApiError:
    """A refusal before the body has been read: the connection cannot be used again."""
    error = ApiError(status_code, message)
    error.headers = {"Connection": "close"}
    return error
