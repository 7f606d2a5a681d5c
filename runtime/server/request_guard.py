"""What every request passes before a route sees it: the key, bounds on its body, the count of its response. Plain ASGI."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from contextlib import suppress

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runtime.server.access_log import log_access
from runtime.server.api_key import ApiKeys
from runtime.server.caller import CALLER, Caller
from runtime.server.errors import ApiError, error_body
from runtime.server.metrics import ServerMetrics

_OPEN_PATHS = frozenset({"/", "/health", "/ready", "/metrics", "/version"})
_REQUEST_ID = re.compile(r"[!-~]{1,128}")

#: How long the rest of a refused body is taken in and dropped, in all and while nothing comes. A socket that is closed
#: with bytes unread is reset, and a reset can overtake the answer.
_LINGER_S = 10.0
_LINGER_IDLE_S = 1.0


class RequestGuard:
    """401 without a key, 413 for a body over the limit, 408 for one that is not whole in time. `api_keys` None lets all in.

    From here on `CALLER` says who asks. Every answer has the request's x-request-id: the client's own, or a new one. It has the
    bundle's `fingerprint` as x-system-fingerprint, for the APIs whose bodies have no place for one.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        api_keys: ApiKeys | None,
        max_body_bytes: int,
        body_timeout_s: float,
        metrics: ServerMetrics,
        fingerprint: str | None = None,
    ) -> None:
        self._app = app
        self._api_keys = api_keys
        self._max_body_bytes = max_body_bytes
        self._body_timeout_s = body_timeout_s
        self._metrics = metrics
        self._fingerprint = [] if fingerprint is None else [(b"x-system-fingerprint", fingerprint.encode())]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        body = _Body(receive, self._max_body_bytes, self._body_timeout_s)
        headers = Headers(scope=scope)
        client = self._client(headers)
        caller = Caller(_request_id(headers), client or "")
        CALLER.set(caller)
        begin_s = time.monotonic()
        status: int | None = None
        closing = False

        async def checked_send(message: Message) -> None:
            nonlocal closing, status
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "other")  # never the raw path: clients choose that
                self._metrics.responses.labels(route, message["status"]).inc()
                closing = Headers(raw=message["headers"]).get("connection") == "close"
                status = message["status"]
                own = [(b"x-request-id", caller.request_id.encode()), *self._fingerprint]
                message = {**message, "headers": [*message["headers"], *own]}
            elif closing and not message.get("more_body", False):
                await send({**message, "more_body": True})
                await body.drop()
                message = {"type": "http.response.body"}
            await send(message)

        try:
            await (self._refusal(scope, headers, client) or self._app)(scope, body.receive, checked_send)
        finally:
            log_access(scope, status, time.monotonic() - begin_s)

    def _client(self, headers: Headers) -> str | None:
        """The name of the request's key, "" where none is needed; None if it has none and needs one."""
        if self._api_keys is None:
            return ""
        names = (self._api_keys.name_of(shown) for shown in _shown(headers))
        return next((name for name in names if name is not None), None)

    def _refusal(self, scope: Scope, headers: Headers, client: str | None) -> JSONResponse | None:
        if client is None and scope["path"] not in _OPEN_PATHS:
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


def _request_id(headers: Headers) -> str:
    """The client's own if it can stand in a log and a header."""
    given = headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


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
