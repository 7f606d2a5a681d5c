"""An endpoint under load, through the openai client: closed loop at a concurrency, or open loop with Poisson arrivals."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import openai

from runtime.bench.metrics import Answer

_WORDS = (
    "time water house river garden letter market window bridge morning paper doctor music winter summer road stone light "
    "story number forest engine island friend question answer mountain city train field village history science picture"
)
Prompt = str | list[int]


@dataclass(frozen=True)
class ClosedLoop:
    """`concurrency` clients; each sends its next request when its last one is answered."""

    concurrency: int

    def __str__(self) -> str:
        return f"{self.concurrency} at once"


@dataclass(frozen=True)
class OpenLoop:
    """Requests arrive at random (Poisson, seeded) at `rate_per_s` on average, whether or not the server keeps up."""

    rate_per_s: float
    seed: int = 0

    def __str__(self) -> str:
        return f"{self.rate_per_s:g}/s"

    def arrivals_s(self, count: int) -> list[float]:
        """When each request is due, from the start of the run; the first at once."""
        generator, now, arrivals = random.Random(self.seed), 0.0, []
        for _ in range(count):
            arrivals.append(now)
            now += generator.expovariate(self.rate_per_s)
        return arrivals


@dataclass(frozen=True)
class Run:
    """`answers` in the order of their prompts; `duration_s` from the first request's start to the last one's end."""

    answers: tuple[Answer, ...]
    duration_s: float


class Endpoint:
    """One model of an OpenAI-compatible server. Use `connect`."""

    def __init__(self, client: openai.AsyncOpenAI, model: str, has_tokenizer: bool, forces_length: bool) -> None:
        self._client = client
        self.model = model
        self.has_tokenizer = has_tokenizer
        self.forces_length = forces_length

    @classmethod
    async def connect(cls, url: str, api_key: str | None = None, model: str | None = None) -> Endpoint:
        """Ask the server what it has and accepts. `url` with or without /v1; the first model listed if none is named.

        Raises openai.APIError if it does not answer as such a server does.
        """
        root = url.rstrip("/").removesuffix("/v1")
        client = openai.AsyncOpenAI(base_url=f"{root}/v1", api_key=api_key or "none", max_retries=0, timeout=600)
        model = model or (await client.models.list()).data[0].id
        try:
            await _tokenize(client, model, "a")
            has_tokenizer = True
        except openai.APIStatusError:
            has_tokenizer = False
        endpoint = cls(client, model, has_tokenizer, forces_length=True)
        if (await endpoint.ask("Hello", 2)).error is not None:
            endpoint.forces_length = False  # strict servers refuse the field that switches end-of-sequence off
            answer = await endpoint.ask("Hello", 2)
            if answer.error is not None:
                raise openai.OpenAIError(f"{root} does not stream /v1/completions for {model!r}: {answer.error}")
        return endpoint

    async def close(self) -> None:
        await self._client.close()

    async def prompts(self, num_tokens: int, count: int, seed: int) -> list[Prompt]:
        """`count` different prompts of random words, of exactly `num_tokens` tokens if the server tokenizes.

        If not, of as many words: the tokens that the server reports are what counts then.
        """
        generator = random.Random(seed)
        words = _WORDS.split()
        texts = [" ".join(generator.choices(words, k=num_tokens)) for _ in range(count)]
        if not self.has_tokenizer:
            return [*texts]
        # A word is at least a token, so the texts are long enough.
        return [(await _tokenize(self._client, self.model, text))[:num_tokens] for text in texts]

    async def ask(self, prompt: Prompt, num_output_tokens: int) -> Answer:
        """Send one streamed, greedy request. A failure is an answer with `error`."""
        sent_s = time.perf_counter()
        times: list[float] = []
        usage = None
        try:
            stream = await self._client.completions.create(
                model=self.model,
                prompt=prompt,
                max_tokens=num_output_tokens,
                temperature=0,
                stream=True,
                stream_options={"include_usage": True},
                extra_body={"ignore_eos": True} if self.forces_length else None,
            )
            async for chunk in stream:
                if chunk.choices and chunk.choices[0].text:
                    times.append(time.perf_counter())
                usage = chunk.usage or usage
        except Exception as error:  # a stream that breaks raises its transport's own errors, and the transport varies
            return Answer(sent_s, (), 0, 0, error=f"{type(error).__name__}: {error}")
        if usage is None or not times:
            missing = "usage" if usage is None else "text"
            return Answer(sent_s, (), 0, 0, error=f"the stream ended without {missing}")
        details = usage.prompt_tokens_details
        cached = None if details is None else details.cached_tokens
        return Answer(sent_s, tuple(times), usage.prompt_tokens, usage.completion_tokens, num_cached_tokens=cached)


async def run_load(
    endpoint: Endpoint,
    prompts: Sequence[Prompt],
    num_output_tokens: int,
    load: ClosedLoop | OpenLoop,
    on_answer: Callable[[Answer], None] = lambda _: None,
) -> Run:
    """Send one request per prompt under `load`; `on_answer` is called with each as it ends."""
    answers: list[Answer | None] = [None] * len(prompts)

    async def ask(index: int) -> None:
        answer = answers[index] = await endpoint.ask(prompts[index], num_output_tokens)
        on_answer(answer)

    started_s = time.perf_counter()
    await (_closed(load, len(prompts), ask) if isinstance(load, ClosedLoop) else _open(load, len(prompts), ask))
    duration_s = time.perf_counter() - started_s
    return Run(tuple(answer for answer in answers if answer is not None), duration_s)


async def _closed(load: ClosedLoop, count: int, ask: Callable[[int], Awaitable[None]]) -> None:
    indices = iter(range(count))

    async def client() -> None:
        for index in indices:
            await ask(index)

    await asyncio.gather(*(client() for _ in range(load.concurrency)))


async def _open(load: OpenLoop, count: int, ask: Callable[[int], Awaitable[None]]) -> None:
    started_s = time.perf_counter()

    async def arrive(index: int, due_s: float) -> None:
        await asyncio.sleep(due_s - (time.perf_counter() - started_s))
        await ask(index)

    await asyncio.gather(*(arrive(index, due_s) for index, due_s in enumerate(load.arrivals_s(count))))


async def _tokenize(client: openai.AsyncOpenAI, model: str, text: str) -> list[int]:
    """/tokenize lies beside /v1."""
    url = str(client.base_url).removesuffix("/v1/") + "/tokenize"
    answer = await client.post(url, body={"model": model, "prompt": text}, cast_to=dict[str, Any])
    tokens: list[int] = answer["tokens"]
    return tokens
