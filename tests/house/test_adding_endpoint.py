"""docs/adding.md, "An endpoint": a toy route is written, listed and served as the others are."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import Response

from runtime.server import app
from runtime.server.protocol_generation import Body, ModelName, to_json
from runtime.server.service import Service
from runtime.server.streaming import json_from_worker
from tests.house.recipes import files_of
from tests.server.conftest import Served, running

KEY = "a-key-of-some-length"
HTTP = httpx.Client(timeout=20, headers={"Authorization": f"Bearer {KEY}"})


class CountBody(Body):
    prompt: str
    model: ModelName = None


class Counted(BaseModel):
    count: int


def add(router: APIRouter, service: Service) -> None:
    @router.post("/v1/count", response_model=Counted)
    async def count(body: CountBody, http: Request) -> Response:
        service.check_model(body.model)
        return await json_from_worker(
            service.workers, http, lambda: to_json(Counted(count=len(service.prompts.encode(body.prompt))))
        )


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app, "ROUTES", (*app.ROUTES, add))
        with running(api_key=KEY, max_body_bytes=2000) as served:
            yield served


def test_the_recipe_is_three_files() -> None:
    assert files_of("An endpoint") == [
        "runtime/server/protocol_NAME.py",
        "runtime/server/NAME_route.py",
        "runtime/server/app.py",
    ]


def test_it_answers(served: Served) -> None:
    answer = HTTP.post(f"{served.url}/v1/count", json={"prompt": "The quick brown fox", "model": "tiny"})
    assert (answer.status_code, answer.json()) == (200, {"count": len(served.encode("The quick brown fox"))})


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({}, 400, "prompt"),
        ({"prompt": 3}, 400, "prompt"),
        ({"prompt": "a", "tools": [1]}, 400, "tools"),
        ({"prompt": "a", "model": "other"}, 404, "this server has the model 'tiny'"),
        ({"prompt": "a" * 3000}, 413, "2000"),
    ],
)
def test_what_every_route_does_holds_for_it(served: Served, body: dict[str, object], status: int, message: str) -> None:
    answer = HTTP.post(f"{served.url}/v1/count", json=body)
    assert answer.status_code == status and message in answer.json()["error"]["message"]


def test_it_needs_the_key(served: Served) -> None:
    assert httpx.post(f"{served.url}/v1/count", json={"prompt": "a"}).status_code == 401


def test_it_is_among_the_routes_that_a_wrong_path_is_told(served: Served) -> None:
    message = HTTP.post(f"{served.url}/count", json={}).json()["error"]["message"]
    assert "did you mean POST /v1/count?" in message
