"""The benchmark against a small endpoint whose timing and refusals are known."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
import uvicorn
from click.testing import CliRunner
from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from runtime.bench.client import ClosedLoop, Endpoint, OpenLoop, run_load
from runtime.bench.command import bench

TTFT_S, ITL_S = 0.03, 0.01


class KnownEndpoint:
    """Answers like OpenAI's, at a known pace, one token per character of a prompt text; remembers what it was asked."""

    def __init__(self, tokenizes: bool = True, strict: bool = False, broken: bool = False) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.num_open = self.max_num_open = 0
        self.app = FastAPI()
        self.strict, self.broken, self.breaks = strict, broken, False
        self.app.get("/v1/models")(self.models)
        self.app.post("/v1/completions")(self.completions)
        if tokenizes:
            self.app.post("/tokenize")(self.tokenize)

    async def models(self) -> dict[str, Any]:
        return {"object": "list", "data": [{"id": "known", "object": "model", "created": 0, "owned_by": "me"}]}

    async def tokenize(self, request: Request) -> dict[str, Any]:
        return {"tokens": [ord(c) for c in (await request.json())["prompt"]]}

    async def completions(self, request: Request) -> Response:
        body = await request.json()
        if self.broken or (self.strict and "ignore_eos" in body):
            return JSONResponse({"error": {"message": "no", "type": "x", "param": None, "code": None}}, 400)
        self.bodies.append(body)
        return StreamingResponse(self.stream(body), media_type="text/event-stream")

    async def stream(self, body: dict[str, Any]) -> AsyncIterator[str]:
        self.num_open += 1
        self.max_num_open = max(self.max_num_open, self.num_open)
        try:
            await asyncio.sleep(TTFT_S)
            for _ in range(body["max_tokens"]):
                yield self.chunk([{"index": 0, "text": "x", "logprobs": None, "finish_reason": None}], None)
                await asyncio.sleep(ITL_S)
                if self.breaks:
                    raise ConnectionError
            usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": body["max_tokens"], "total_tokens": 0}
            yield self.chunk([], usage)
            yield "data: [DONE]\n\n"
        finally:
            self.num_open -= 1

    def chunk(self, choices: list[dict[str, Any]], usage: dict[str, int] | None) -> str:
        body = {"id": "1", "object": "text_completion", "created": 0, "model": "known", "choices": choices, "usage": usage}
        return f"data: {json.dumps(body)}\n\n"


@contextmanager
def serving(endpoint: KnownEndpoint) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(endpoint.app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)


def test_closed_loop_measures_the_known_pace() -> None:
    known = KnownEndpoint()

    async def measure(url: str) -> Any:
        endpoint = await Endpoint.connect(url)
        prompts = await endpoint.prompts(50, 6, seed=1)
        again = await endpoint.prompts(50, 6, seed=1)
        run = await run_load(endpoint, prompts, 8, ClosedLoop(2))
        await endpoint.close()
        return endpoint, prompts, again, run

    with serving(known) as url:
        endpoint, prompts, again, run = asyncio.run(measure(url))
    assert endpoint.model == "known" and endpoint.has_tokenizer and endpoint.forces_length
    assert prompts == again and len({tuple(p) for p in prompts}) == 6
    assert [len(p) for p in prompts] == [50] * 6
    assert known.max_num_open == 2
    assert len(run.answers) == 6
    for answer in run.answers:
        assert answer.error is None
        assert (answer.num_prompt_tokens, answer.num_output_tokens) == (50, 8)
        assert len(answer.text_times_s) == 8
        assert answer.ttft_ms >= TTFT_S * 1e3
        assert answer.tpot_ms >= ITL_S * 1e3 * 0.9
    assert min(answer.ttft_ms for answer in run.answers) < TTFT_S * 1e3 + 300
    assert all(body["ignore_eos"] and body["max_tokens"] == 8 for body in known.bodies[-6:])


def test_open_loop_does_not_wait_for_answers() -> None:
    known = KnownEndpoint()

    async def measure(url: str) -> Any:
        endpoint = await Endpoint.connect(url)
        return await run_load(endpoint, await endpoint.prompts(5, 10, seed=1), 20, OpenLoop(rate_per_s=200, seed=1))

    with serving(known) as url:
        run = asyncio.run(measure(url))
    assert known.max_num_open >= 8
    sent = [answer.sent_s - run.answers[0].sent_s for answer in run.answers]
    for actual, due in zip(sent, OpenLoop(200, seed=1).arrivals_s(10), strict=True):
        assert actual > due - 0.05


def test_a_strict_server_without_a_tokenizer() -> None:
    async def measure(url: str) -> Any:
        endpoint = await Endpoint.connect(url + "/v1/")
        prompts = await endpoint.prompts(9, 2, seed=1)
        return endpoint, prompts, await run_load(endpoint, prompts, 3, ClosedLoop(1))

    with serving(KnownEndpoint(tokenizes=False, strict=True)) as url:
        endpoint, prompts, run = asyncio.run(measure(url))
    assert not endpoint.has_tokenizer and not endpoint.forces_length
    assert all(isinstance(p, str) and len(p.split()) == 9 for p in prompts)
    assert [a.num_prompt_tokens for a in run.answers] == [len(p) for p in prompts], "the server's count is the truth"


def test_a_stream_that_breaks_is_an_error() -> None:
    known = KnownEndpoint()

    async def measure(url: str) -> Any:
        endpoint = await Endpoint.connect(url)
        known.breaks = True
        return await run_load(endpoint, ["a", "b"], 5, ClosedLoop(2))

    with serving(known) as url:
        run = asyncio.run(measure(url))
    assert all(answer.error for answer in run.answers) and len(run.answers) == 2


def test_a_server_that_only_refuses() -> None:
    with serving(KnownEndpoint(broken=True)) as url, pytest.raises(openai.OpenAIError, match="does not stream"):
        asyncio.run(Endpoint.connect(url))


def test_the_command_prints_and_writes(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    options = "--prompt-tokens 5,9 --concurrency 1,2 --requests 2 --output-tokens 3 --ttft-ms 5000"
    with serving(KnownEndpoint()) as url:
        result = CliRunner().invoke(bench, [url, *options.split(), "--json", str(out)])
    assert result.exit_code == 0, result.output
    assert "2 at once" in result.stdout and "measuring prompts of 9 tokens, 2 at once" in result.stderr
    written = json.loads(out.read_text())
    assert set(written["points"][0]["summary"]) <= set(written["definitions"]), "a figure without its meaning"
    assert written["model"] == "known"
    assert [(p["num_prompt_tokens"], p["load"]["concurrency"]) for p in written["points"]] == [(5, 1), (5, 2), (9, 1), (9, 2)]
    for point in written["points"]:
        summary = point["summary"]
        assert summary["num_completed"] == 2
        assert summary["num_prompt_tokens"] == 2 * point["num_prompt_tokens"]
        assert summary["goodput_per_s"] == summary["requests_per_s"]


def test_the_command_says_what_bounds_a_bundle(tiny_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    options = "--prompt-tokens 9 --concurrency 1,4 --requests 8 --output-tokens 6"
    with serving(KnownEndpoint()) as url:
        result = CliRunner().invoke(bench, [url, *options.split(), "--bundle", str(tiny_bundle), "--json", str(out)])
    assert result.exit_code == 0, result.output
    assert result.stderr.index("peaks") < result.stderr.index("measuring prompts"), "while the server is idle"
    decode = json.loads(out.read_text())["decode"]
    alone, together = decode["points"]
    assert [alone["batch_size"], together["batch_size"]] == [1, 2], "four clients, but the bundle decodes two at once"
    assert alone["context_len"] == together["context_len"] == 9 + 3
    for point, cell in zip(decode["points"], json.loads(out.read_text())["points"], strict=True):
        assert point["memory_ms"] == pytest.approx(
            point["bytes_per_token"] * point["batch_size"] / decode["peaks"]["memory_gbps"] / 1e6
        )
        floor_ms = max(point["memory_ms"], point["compute_ms"])
        assert point["itl_p50_of_floor"] == pytest.approx(cell["summary"]["itl_ms"]["p50"] / floor_ms)


def test_the_command_says_what_is_wrong() -> None:
    refused = CliRunner().invoke(bench, ["http://127.0.0.1:9"])
    assert refused.exit_code == 1 and "Connection error" in refused.output
    assert "separated by commas" in CliRunner().invoke(bench, ["http://x", "--concurrency", "a"]).output


def test_the_command_imports_nothing_heavy() -> None:
    code = "import runtime.bench.command, sys; print([m for m in ('openai', 'numpy', 'rich', 'httpx') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
