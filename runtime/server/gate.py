"""What every request passes before a route sees it: the key, the body's size, the count of its response. Plain ASGI."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runtime.server.api_key import ApiKey
from runtime.server.errors import ApiError, error_body
from runtime.server.metrics import ServerMetrics

_OPEN_PATHS = frozenset({"/health", "/metrics", "/version"})


class Gate:
    """401 without the key, 413 for a body over the limit. `api_key` None lets everyone in."""

    def __init__(self, app: ASGIApp, *, api_key: ApiKey | None, max_body_bytes: int, metrics: ServerMetrics) -> None:
        self._app = app
        self._api_key = api_key
        self._max_body_bytes = max_body_bytes
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
        """Bodies may come without a length: count what arrives."""
        num_bytes = 0

        async def limited() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > self._max_body_bytes:
                raise ApiError(413, self._too_large())
            return message

        return limited

    def _too_large(self) -> str:
        return f"a request body may have at most {self._max_body_bytes} bytes"
