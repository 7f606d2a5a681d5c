"""The routes of a served model. Wiring only."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.responses import Response
from tokenizers import Tokenizer

from runtime.bench.bound import Peaks
from runtime.chat import ChatTemplate
from runtime.engine_core import EngineCore
from runtime.request import RequestError
from runtime.server import chat_route, completion_route, messages_route, page_route, responses_route, token_routes
from runtime.server.admission import Overloaded
from runtime.server.api_key import ApiKeys
from runtime.server.bodies import BodyReader, BodyRoute
from runtime.server.errors import on_engine_failure, on_failure, on_http_error, on_overload, on_request_error
from runtime.server.metrics import ServerMetrics
from runtime.server.request_guard import RequestGuard
from runtime.server.request_log import RequestLog
from runtime.server.response_store import ResponseStore
from runtime.server.service import Service
from runtime.server.streaming import ClientDisconnected
from runtime.server.text_bounds import largest_body
from runtime.server.token_stream import EngineFailure
from runtime.serving_limits import KEEP_ALIVE_S, MAX_QUEUE, MAX_WAIT_S
from runtime.step_cost import StepCost

_BODY_TIMEOUT_S = 30.0
_CLIENT_CLOSED_REQUEST = 499
#: what adds the routes whose requests have a body
ROUTES: tuple[Callable[[APIRouter, Service], None], ...] = (
    completion_route.add,
    chat_route.add,
    responses_route.add,
    messages_route.add,
    token_routes.add,
)


def create_app(
    engine: EngineCore,
    tokenizer: Tokenizer,
    *,
    model_name: str,
    version: str,
    chat_template: ChatTemplate | None = None,
    generation_config: Mapping[str, Any] | None = None,
    report: bytes | None = None,
    api_key: str | None = None,
    api_keys: Path | None = None,
    max_queue: int = MAX_QUEUE,
    max_wait_s: float = MAX_WAIT_S,
    max_body_bytes: int | None = None,
    body_timeout_s: float = _BODY_TIMEOUT_S,
    keep_alive_s: float = KEEP_ALIVE_S,
    step_cost: StepCost | None = None,
    peaks: Peaks | None = None,
    request_log: RequestLog | None = None,
    digest: str | None = None,
    metrics: ServerMetrics | None = None,
    responses: ResponseStore | None = None,
) -> FastAPI:
    """An ASGI application that serves `engine`, on a thread of its own between lifespan start and end.

    `generation_config` is the content of generation_config.json, `report` that of report.html. At most `max_queue` sequences
    wait beyond those that run, and none longer than `max_wait_s`. `max_body_bytes` None is what a prompt that fills the
    model's context can need. `app.state.service` is the `Service`: set its `draining` to refuse new work. `digest` is the
    bundle's; `metrics` and `responses` are those of the bundle before. Raises UserError on a malformed generation_config, and
    as `ApiKeys` does.
    """
    service = Service.over(
        engine,
        tokenizer,
        model_name=model_name,
        chat_template=chat_template,
        generation_config=generation_config,
        max_queue=max_queue,
        max_wait_s=max_wait_s,
        keep_alive_s=keep_alive_s,
        step_cost=step_cost,
        peaks=peaks,
        request_log=request_log,
        digest=digest,
        metrics=metrics,
        responses=responses,
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        # Requests without a form need not wait for it, and whoever asks for one first should not have to. No daemon: Python
        # waits for it at its end, and would else take itself apart under a library that is reading from it.
        threading.Thread(target=service.grammars.get_ready, name="grammars").start()
        yield
        await service.close()

    app = FastAPI(title="Coldforge", version=version, lifespan=lifespan, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.service = service
    app.state.bodies = BodyReader(service.workers, service.metrics)
    app.add_middleware(
        RequestGuard,
        api_keys=None if api_key is None and api_keys is None else ApiKeys(api_key, api_keys),
        max_body_bytes=max_body_bytes or largest_body(service.text_bound, engine.max_model_len),
        body_timeout_s=body_timeout_s,
        metrics=service.metrics,
        fingerprint=service.fingerprint,
    )
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(EngineFailure, on_engine_failure)
    app.add_exception_handler(RequestError, on_request_error)
    app.add_exception_handler(Overloaded, on_overload)
    app.add_exception_handler(ClientDisconnected, _on_disconnect)
    app.add_exception_handler(Exception, on_failure)
    with_bodies = APIRouter(route_class=BodyRoute)
    for add in ROUTES:
        add(with_bodies, service)
    app.include_router(with_bodies)
    page_route.add(app.router, report)
    _add_status_routes(app, service)
    return app


def _add_status_routes(app: FastAPI, service: Service) -> None:
    card = {
        "id": service.model_name,
        "object": "model",
        "created": service.created,
        "owned_by": "coldforge",
        "root": service.model_name,  # `vllm bench serve` reads it when it is told no model
        "max_model_len": service.engine.max_model_len,
        **({} if service.digest is None else {"digest": service.digest}),
    }

    @app.get("/v1/models")
    async def models() -> dict[str, object]:
        return {"object": "list", "data": [card]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, object]:
        service.check_model(name)
        return card

    @app.get("/health")
    async def health() -> dict[str, str]:
        service.check_accepting()
        return {"status": "ok"}

    @app.get("/ready")
    async def ready() -> dict[str, str]:
        service.check_accepting()
        return {"status": "ready"}

    @app.get("/version")
    async def version() -> dict[str, str]:
        return {"version": app.version}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)


async def _on_disconnect(_: Request, __: Exception) -> Response:
    return Response(status_code=_CLIENT_CLOSED_REQUEST)
