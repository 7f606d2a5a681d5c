"""Routes whose body is JSON: read, parsed and validated off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, get_type_hints

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import TypeAdapter

from runtime.server.json_body import check_content_type, parse


class JsonRoute(APIRoute):
    """A route; where it declares a parameter `body`, that is read from a JSON object. Refusals are ApiError 400."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle
        adapter = TypeAdapter[Any](get_type_hints(self.endpoint, include_extras=True)["body"])

        async def read_and_handle(request: Request) -> Response:
            raw = await request.body()
            if raw:
                check_content_type(request.headers.get("content-type", ""))
            return await handle(_Parsed(request, await asyncio.to_thread(parse, raw, adapter)))

        return read_and_handle


class _Parsed(Request):
    """A request whose body has been validated; FastAPI takes instances of its models as they are."""

    def __init__(self, request: Request, parsed: object) -> None:
        super().__init__(request.scope, request.receive)
        self._parsed = parsed

    async def body(self) -> bytes:
        return b"{}"  # FastAPI asks for the JSON of bodies that are not empty

    async def json(self) -> Any:
        return self._parsed
