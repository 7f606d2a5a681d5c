"""The routes of a served model. Wiring only."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.responses import Response
from tokenizers import Tokenizer

from runtime.chat import ChatTemplate
from runtime.engine import Engine
from runtime.prompts import Prompts
from runtime.server.api_key import ApiKey
from runtime.server.async_engine import AsyncEngine, EngineFailure
from runtime.server.chat_route import create_chat_completion
from runtime.server.completion_route import create_completion
from runtime.server.errors import on_engine_failure, on_failure, on_http_error
from runtime.server.gate import Gate
from runtime.server.json_route import JsonRoute
from runtime.server.metrics import ServerMetrics
from runtime.server.prompts import encode_chat
from runtime.server.protocol_chat import ChatCompletionBody
from runtime.server.protocol_completion import CompletionBody
from runtime.server.protocol_tokens import DetokenizeBody, DetokenizedText, TokenizeBody, TokenizeTextBody, Tokens
from runtime.server.sampling import GenerationDefaults
from runtime.server.service import Service
from runtime.server.streaming import ClientDisconnected
from runtime.text_stream import Vocabulary

_MAX_BODY_BYTES = 32 * 2**20
_CLIENT_CLOSED_REQUEST = 499


def create_app(
    engine: Engine,
    tokenizer: Tokenizer,
    *,
    model_name: str,
    version: str,
    chat_template: ChatTemplate | None = None,
    generation_config: Mapping[str, Any] | None = None,
    api_key: str | None = None,
    max_body_bytes: int = _MAX_BODY_BYTES,
) -> FastAPI:
    """An ASGI application that serves `engine`, on a thread of its own between lifespan start and end.

    `generation_config` is the content of generation_config.json. `app.state.service` is the `Service`: set its `draining` to
    refuse new work. Raises ValueError on a malformed generation_config, and as `ApiKey` does.
    """
    async_engine = AsyncEngine(engine)
    service = Service(
        model_name=model_name,
        engine=async_engine,
        vocabulary=Vocabulary(tokenizer),
        prompts=Prompts(tokenizer, chat_template),
        defaults=GenerationDefaults.from_config(generation_config or {}),
        metrics=ServerMetrics(lambda: async_engine.stats),
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async_engine.start()
        yield
        await async_engine.close()

    app = FastAPI(title="Coldforge", version=version, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.router.route_class = JsonRoute
    app.state.service = service
    key = None if api_key is None else ApiKey(api_key)
    app.add_middleware(Gate, api_key=key, max_body_bytes=max_body_bytes, metrics=service.metrics)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(EngineFailure, on_engine_failure)
    app.add_exception_handler(ClientDisconnected, _on_disconnect)
    app.add_exception_handler(Exception, on_failure)
    _add_generation_routes(app, service)
    _add_token_routes(app, service)
    _add_status_routes(app, service)
    return app


def _add_generation_routes(app: FastAPI, service: Service) -> None:
    @app.post("/v1/completions")
    async def completions(body: CompletionBody, http: Request) -> Response:
        return await create_completion(service, body, http)

    @app.post("/v1/chat/completions")
    async def chat_completions(body: ChatCompletionBody, http: Request) -> Response:
        return await create_chat_completion(service, body, http)


def _add_token_routes(app: FastAPI, service: Service) -> None:
    @app.post("/tokenize")
    async def tokenize(body: TokenizeBody) -> Tokens:
        service.check_model(body.model)
        if isinstance(body, TokenizeTextBody):
            tokens = service.prompts.encode(body.prompt, body.add_special_tokens)
        else:
            tokens = encode_chat(service.prompts, body)
        return Tokens(tokens=tokens, count=len(tokens), max_model_len=service.engine.max_model_len)

    @app.post("/detokenize")
    async def detokenize(body: DetokenizeBody) -> DetokenizedText:
        service.check_model(body.model)
        visible = service.vocabulary.visible(body.tokens, skip_special_tokens=False)
        return DetokenizedText(prompt=service.vocabulary.decode(visible))


def _add_status_routes(app: FastAPI, service: Service) -> None:
    card = {
        "id": service.model_name,
        "object": "model",
        "created": service.created,
        "owned_by": "coldforge",
        "max_model_len": service.engine.max_model_len,
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

    @app.get("/version")
    async def version() -> dict[str, str]:
        return {"version": app.version}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)


async def _on_disconnect(_: Request, __: Exception) -> Response:
    return Response(status_code=_CLIENT_CLOSED_REQUEST)
