"""`runtime.Engine`: the server's own answers without HTTP, in order, and refusals in words."""

from __future__ import annotations

import asyncio
import doctest
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import openai
import pytest

from optimizer.importers import open_source
from runtime import Engine
from runtime import engine as engine_module
from runtime.answer.whole import Answer
from runtime.chat import ChatTemplate
from runtime.engine_core import EngineCore
from runtime.loading import load
from runtime.request import RequestError
from runtime.server import Server, create_app
from tests.server.conftest import make_tokenizer
from tests.server.speaking import HERMES_TEMPLATE, SpeakingRunner
from tests.server.tool_requests import WEATHER
from tests.small_bundle import write_small_bundle
from tests.tiny_models import random_llama, save_tiny
from tests.waiting import wait_for

ROOT = Path(__file__).parents[2]
PROMPTS = [f"Prompt {i} of many" for i in range(12)]
CHAT = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, kernels_path: Path) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    source = open_source(save_tiny(folder / "model", random_llama(300)))
    return write_small_bundle(folder / "bundle", source, folder / "store", kernels_path)


@pytest.fixture(scope="module")
def engine(bundle: Path) -> Iterator[Engine]:
    with Engine(bundle) as engine:
        yield engine


@pytest.fixture(scope="module")
def client(bundle: Path) -> Iterator[openai.OpenAI]:
    """Of a server over the same bundle."""
    loaded = load(bundle)

    def build() -> Any:
        return create_app(
            loaded.engine,
            loaded.tokenizer,
            model_name="tiny",
            version="0",
            chat_template=loaded.chat_template,
            generation_config=loaded.generation_config,
        )

    server = Server(build, "127.0.0.1", 0)
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_for(lambda: server.started and server.loading.app)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=20)
    server.should_exit = True
    thread.join(20)


def test_the_examples_of_the_docstrings(bundle: Path) -> None:
    results = doctest.testmod(engine_module, extraglobs={"bundle": bundle}, optionflags=doctest.IGNORE_EXCEPTION_DETAIL)
    assert results.attempted >= 9 and not results.failed


def test_a_batch_is_what_the_server_answers_in_order(engine: Engine, client: openai.OpenAI) -> None:
    """Sampled by the bundle's defaults and by a seed, with stop strings: twelve prompts, of which four run at a time."""
    options: dict[str, Any] = {"max_tokens": 24, "seed": 5, "temperature": 0.9, "stop": ["e", "\n"]}
    answers = engine.generate(PROMPTS, **options)
    told = client.completions.create(model="tiny", prompt=PROMPTS, **options)
    assert [answer.text for answer in answers] == [choice.text for choice in told.choices]
    assert [answer.finish_reason for answer in answers] == [choice.finish_reason for choice in told.choices]
    assert len({answer.text for answer in answers}) > 6


def test_a_chat_is_what_the_server_answers(engine: Engine, client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"max_tokens": 16, "seed": 5, "n": 2, "logprobs": True, "top_logprobs": 2}
    answers = engine.chat(CHAT, **options)
    told: Any = client.chat.completions.create(model="tiny", messages=CHAT, **options)  # type: ignore[call-overload]
    assert [answer.text for answer in answers] == [choice.message.content for choice in told.choices]
    assert answers[0].num_prompt_tokens == told.usage.prompt_tokens
    for answer, choice in zip(answers, told.choices, strict=True):
        assert answer.logprobs is not None and len(answer.logprobs) == len(answer.token_ids)
        ours = [scored.logprob for scored in answer.logprobs if scored is not None]
        assert ours == pytest.approx([token.logprob for token in choice.logprobs.content])
    assert [a.text for a in engine.chat([CHAT, CHAT], max_tokens=4, seed=1)] == [
        engine.chat(CHAT, max_tokens=4, seed=1)[0].text
    ] * 2


def test_token_ids_and_scored_prompts(engine: Engine) -> None:
    (answer,) = engine.generate([10, 11, 12], max_tokens=5, temperature=0)
    assert len(answer.token_ids) == 5 and answer.num_prompt_tokens == 3 and answer.logprobs is None
    (scored,) = engine.generate([10, 11, 12], max_tokens=0, echo=True, logprobs=0)
    assert scored.token_ids == () and scored.logprobs is not None
    assert [None if one is None else one.token_id for one in scored.logprobs] == [None, 11, 12]
    assert engine.generate([]) == []


def test_streams_are_the_batch_in_pieces_side_by_side(engine: Engine) -> None:
    expected = [answer.text for answer in engine.generate(PROMPTS[:3], max_tokens=12, seed=3)]

    async def streamed(prompt: str) -> str:
        deltas = [delta async for delta in engine.stream(prompt, max_tokens=12, seed=3)]
        assert [delta.finish_reason is None for delta in deltas] == [True] * (len(deltas) - 1) + [False]
        return "".join(delta.text for delta in deltas)

    async def all_of_them() -> list[str]:
        return await asyncio.gather(*map(streamed, PROMPTS[:3]))

    assert asyncio.run(all_of_them()) == expected


def test_a_stream_that_is_left_frees_its_blocks(engine: Engine) -> None:
    async def leave() -> None:
        async with aclosing(engine.stream_chat(CHAT, max_tokens=200, ignore_eos=True)) as deltas:  # type: ignore[type-var]
            async for _ in deltas:
                break

    asyncio.run(leave())
    running = engine._running
    assert running is not None
    wait_for(lambda: running._service.engine.stats.num_free_blocks == running._service.engine.stats.num_blocks)


def test_tool_calls_and_thoughts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that thinks and calls, whole and streamed."""
    said = '<think>Rome?</think>Let me see.\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>'
    tokenizer = make_tokenizer()
    core = EngineCore(SpeakingRunner(tokenizer, lambda prompt: said), [tokenizer.token_to_id("</s>")])
    template = ChatTemplate(HERMES_TEMPLATE, bos_token="<s>", eos_token="</s>", reasoning_format="think")
    loaded = SimpleNamespace(
        engine=core,
        tokenizer=tokenizer,
        chat_template=template,
        generation_config={},
        manifest=SimpleNamespace(name="speaker"),
    )
    monkeypatch.setattr("runtime.loading.load", lambda *_: loaded)

    async def streamed(engine: Engine) -> Answer:
        return Answer.of([event async for delta in engine.stream_chat(CHAT, tools=[WEATHER]) for event in delta.events])

    with Engine("speaker") as engine:
        (answer,) = engine.chat(CHAT, tools=[WEATHER])
        pieces = asyncio.run(streamed(engine))
    (call,) = answer.tool_calls
    assert (call.name, json.loads(call.arguments)) == ("get_weather", {"city": "Rome"})
    assert (answer.text, answer.reasoning, answer.finish_reason) == ("Let me see.", "Rome?", "tool_calls")
    assert (pieces.text, pieces.reasoning) == (answer.text, answer.reasoning)
    assert [(one.name, one.arguments) for one in pieces.calls] == [(call.name, call.arguments)]


def test_progress_is_shown_on_stderr(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    engine.generate(PROMPTS[:3], max_tokens=2, progress=True)
    captured = capsys.readouterr()
    assert "3/3" in captured.err and "6 tokens" in captured.err and captured.out == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_token": 4}, "max_token is not an option of generate; did you mean max_tokens?"),
        ({"stream": True}, "stream is not an option of generate; leave it out"),
        ({"temperature": -1}, "temperature must be at least 0, got -1.0"),
        ({"temperature": "warm"}, "temperature must be a number, got 'warm'"),
        ({"max_tokens": 4000}, r"max_tokens must fit the model's context: \d+ tokens are left"),
        ({"stop_token_ids": [100_000]}, "stop token ids must be between 0 and 299"),
    ],
)
def test_what_is_wrong_with_a_request_is_said(engine: Engine, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        engine.generate("Hi", **options)


def test_the_prompt_at_fault_is_named_and_the_others_end(engine: Engine) -> None:
    with pytest.raises(
        RequestError, match=r"request 1: a prompt must leave room in the model's context of 256 tokens, got 300"
    ):
        engine.generate(["Hi", "x" * 300, "Ho"])
    assert len(engine.generate("Hi", max_tokens=2)) == 1
    with pytest.raises(RequestError, match=r"messages\.0\.role is required"):
        engine.chat([{"content": "Hi"}])

    async def refused() -> None:
        async for _ in engine.stream("x" * 300):
            pass

    with pytest.raises(RequestError, match="a prompt must leave room"):
        asyncio.run(refused())


def test_an_engine_of_a_cpu_bundle_imports_no_torch(bundle: Path) -> None:
    code = (
        "import sys\nfrom runtime import Engine\n"
        f"with Engine({str(bundle)!r}) as engine:\n    print(len(engine.generate('Hi', max_tokens=2)))\n"
        "assert 'torch' not in sys.modules\n"
    )
    finished = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert finished.returncode == 0 and finished.stdout == "1\n", finished.stderr


def test_a_closed_engine_says_so(bundle: Path) -> None:
    engine = Engine(bundle, num_threads=1)
    engine.close()
    engine.close()
    with pytest.raises(RuntimeError, match="the engine is closed"):
        engine.generate("Hi")
