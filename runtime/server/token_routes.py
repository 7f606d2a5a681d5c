"""POST /tokenize and /detokenize."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from runtime.server.json_text import json_pieces
from runtime.server.prompts import render_chat
from runtime.server.protocol_generation import to_json
from runtime.server.protocol_tokens import DetokenizeBody, DetokenizedText, TokenizeBody, TokenizeTextBody, Tokens
from runtime.server.service import Service
from runtime.server.streaming import json_from_worker


def add(router: APIRouter, service: Service) -> None:
    """Put both routes on `router`."""

    @router.post("/tokenize", response_model=Tokens)
    async def tokenize(body: TokenizeBody, http: Request) -> Response:
        service.check_model(body.model)

        def answer() -> str:
            text = body.prompt if isinstance(body, TokenizeTextBody) else render_chat(service.prompts, body)
            tokens = service.prompts.encode(text, body.add_special_tokens)
            whole = Tokens(tokens=tokens, count=len(tokens), max_model_len=service.engine.max_model_len)
            return "".join(json_pieces(whole))

        return await json_from_worker(service.workers, http, answer)

    @router.post("/detokenize", response_model=DetokenizedText)
    async def detokenize(body: DetokenizeBody, http: Request) -> Response:
        service.check_model(body.model)

        def answer() -> str:
            visible = service.vocabulary.visible(body.tokens, skip_special_tokens=False)
            return to_json(DetokenizedText(prompt=service.vocabulary.decode(visible)))

        return await json_from_worker(service.workers, http, answer)
