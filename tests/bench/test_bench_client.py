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

    def __init__(
        self, tokenizes: bool = True, strict: bool = False, broken: bool = False, cache_block: int = 0, ends_after: int = 99
    ) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.num_open = self.max_num_open = 0
        self.app = FastAPI()
        self.strict, self.broken, self.breaks = strict, broken, False
        self.cache_block, self.ends_after = cache_block, ends_after
        self.cached: set[str] = set()
        self.keys: set[str | None] = set()
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
        self.keys.add(request.headers.get("authorization"))
        if self.broken or (self.strict and "ignore_eos" in body):
            return JSONResponse({"error": {"message": "no", "type": "x", "param": None, "code": None}}, 400)
        self.bodies.append(body)
        return StreamingResponse(self.stream(body), media_type="text/event-stream")

    async def stream(self, body: dict[str, Any]) -> AsyncIterator[str]:
        self.num_open += 1
        self.max_num_open = max(self.max_num_open, self.num_open)
        try:
            await asyncio.sleep(TTFT_S)
            num_tokens = min(body["max_tokens"], self.ends_after)
            for _ in range(num_tokens):
                yield self.chunk([{"index": 0, "text": "x", "logprobs": None, "finish_reason": None}], None)
                await asyncio.sleep(ITL_S)
                if self.breaks:
                    raise ConnectionError
            usage: dict[str, Any] = {"prompt_tokens": len(body["prompt"]), "completion_tokens": num_tokens, "total_tokens": 0}
            if self.cache_block:
                usage["prompt_tokens_details"] = {"cached_tokens": self.look_up(body["prompt"])}
            yield self.chunk([], usage)
            yield "data: [DONE]\n\n"
        finally:
            self.num_open -= 1

    def look_up(self, prompt: Any) -> int:
        """How many of the prompt's tokens lie in whole blocks whose beginnings were seen before; as prefix caches do."""
        starts = [str(prompt[:end]) for end in range(self.cache_block, len(prompt) + 1, self.cache_block)]
        found = sum(start in self.cached for start in starts)
        self.cached |= set(starts)
        return found * self.cache_block

    def chunk(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None) -> str:
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


def measured(url: str, folder: Path, *options: str) -> tuple[str, dict[str, Any]]:
    """What the command prints, and its JSON."""
    arguments = [url, "--requests", "4", "--output-tokens", "2", "--json", str(folder / "bench.json"), *options]
    result = CliRunner().invoke(bench, arguments)
    assert result.exit_code == 0, result.output
    return result.stdout, json.loads((folder / "bench.json").read_text())


# https://github.com/vllm-project/vllm/issues/54227, https://github.com/vllm-project/vllm/issues/52884
def test_two_runs_on_a_warm_server_share_no_prompt(tmp_path: Path) -> None:
    options = ["--prompt-tokens", "96", "--concurrency", "1,2"]
    with serving(KnownEndpoint(cache_block=32)) as url:
        runs = [measured(url, tmp_path, *options) for _ in range(2)]
        seeded = [measured(url, tmp_path, *options, "--seed", "7") for _ in range(2)]
    for text, figures in (*runs, seeded[0]):
        assert [point["summary"]["num_cached_tokens"] for point in figures["points"]] == [0, 0]
        assert "cached prompt tokens: none" in text
    assert runs[0][1]["seed"] != runs[1][1]["seed"], "the seed is written, so that a run can be repeated"
    text, figures = seeded[1]
    assert figures["seed"] == 7 and [p["summary"]["num_cached_tokens"] for p in figures["points"]] == [384, 384]
    assert "cached prompt tokens: 384 of 384 (100%) at 96 tokens, 2 at once" in text, "a seed that the server knows is said"


def test_a_server_that_says_nothing_of_its_cache(tmp_path: Path) -> None:
    with serving(KnownEndpoint()) as url:
        text, figures = measured(url, tmp_path, "--prompt-tokens", "9", "--concurrency", "1")
    assert "cached prompt tokens: the server does not say" in text
    assert figures["points"][0]["summary"]["num_cached_tokens"] is None


def test_a_row_of_four_at_once_had_four_clients(tmp_path: Path) -> None:
    known = KnownEndpoint()
    with serving(known) as url:
        _, figures = measured(url, tmp_path, "--prompt-tokens", "9", "--concurrency", "1,4", "--requests", "1")
    assert known.max_num_open == 4
    assert [point["summary"]["num_completed"] for point in figures["points"]] == [1, 4]


def test_lengths_are_what_the_server_counted(tmp_path: Path) -> None:
    """Without a tokenizer a prompt is as many words, and a strict server ends answers where it likes."""
    with serving(KnownEndpoint(tokenizes=False, strict=True, ends_after=2)) as url:
        options = ("--prompt-tokens", "9", "--concurrency", "1", "--output-tokens", "3")
        text, figures = measured(url, tmp_path, *options)
    assert text.startswith("known, up to 3 output tokens, 2.0 on average; ")
    (point,) = figures["points"]
    counted = point["summary"]["num_prompt_tokens"] / 4
    (row,) = [line for line in text.splitlines() if "TTFT" in line]
    assert counted > 9 and row.split()[0] == f"{counted:.0f}"


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ("--rate 2 --concurrency 3", "leave out --concurrency"),
        ("--rate nan", "must be a number above 0, got 'nan'"),
        ("--rate inf", "must be a number above 0, got 'inf'"),
        ("--ttft-ms -5", "must be a number above 0, got '-5'"),
        ("--itl-ms 0", "must be a number above 0, got '0'"),
    ],
)
def test_options_that_would_mean_nothing(options: str, fault: str) -> None:
    result = CliRunner().invoke(bench, ["http://x", *options.split()])
    assert result.exit_code == 2 and fault in result.output


def test_the_command_imports_nothing_heavy() -> None:
    code = "import runtime.bench.command, sys; print([m for m in ('openai', 'numpy', 'rich', 'httpx') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
