"""The clients of a soak: what each kind asks, how it behaves, and what may become of it."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from time import monotonic
from typing import Any

import httpx

#: Kinds and how often they come.
KINDS = {"plain": 30, "stream": 25, "choices": 5, "leaver": 15, "slow": 5, "oversize": 5, "tools": 8, "schema": 7}
_TOO_MANY, _TOO_LATE = 429, "waited too long"
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"enum": ["Oslo", "Rome"]}}, "required": ["city"]},
    },
}
SCHEMA = {
    "type": "json_schema",
    "json_schema": {"name": "n", "schema": {"type": "object", "properties": {"a": {"type": "boolean"}}}},
}


@dataclass
class Record:
    """Outcomes by kind; by client tokens, requests that could be served, and that were; `faults` are what must not happen."""

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    asked: Counter[str] = field(default_factory=Counter)
    served: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    num_sent_again: int = 0
    num_not_sent: int = 0

    def fault(self, what: str) -> None:
        if len(self.faults) < 100:
            self.faults.append(what)


@dataclass(frozen=True)
class Soaker:
    """Sends one request of a kind; everything random comes from `rng`."""

    http: httpx.AsyncClient
    record: Record
    rng: random.Random
    max_model_len: int

    async def send(self, kind: str, client: str, key: str) -> None:
        """Until its answer has ended, or its client has had enough. Never raises."""
        try:
            outcome = await self._outcome(kind, client, {"Authorization": f"Bearer {key}"})
        except Exception as error:  # a soak counts failures
            outcome = f"failed: {type(error).__name__}"
            self.record.fault(f"{kind}: {error!r} from {error.__cause__!r}")
        self.record.outcomes[kind, outcome] += 1
        if kind != "oversize":
            self.record.asked[client] += 1
            self.record.served[client] += outcome not in (str(_TOO_MANY), _TOO_LATE)

    async def _outcome(self, kind: str, client: str, headers: dict[str, str]) -> str:
        body = self._body(kind)
        path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
        if body.get("stream"):
            return await self._stream(kind, client, path, body, headers)
        async with self._answer(path, body, headers) as answer:
            await answer.aread()
        if answer.status_code == 200:
            self.record.tokens[client] += answer.json()["usage"]["completion_tokens"]
        return self._judged(kind, answer.status_code, answer.text)

    @asynccontextmanager
    async def _answer(self, path: str, body: dict[str, Any], headers: dict[str, str]) -> AsyncIterator[httpx.Response]:
        """The answer, of which nothing but the head was read.

        As the official clients do, it asks again, twice at most, if a connection ends before the first byte of the answer: the
        server may close an idle one in the moment in which it is used again (RFC 9112, 9.3.1).
        """
        for is_last in (False, False, True):
            try:
                answer = await self.http.send(self.http.build_request("POST", path, json=body, headers=headers), stream=True)
                break
            except httpx.TransportError:
                if is_last:
                    raise
                self.record.num_sent_again += 1
        try:
            yield answer
        finally:
            await answer.aclose()

    def _judged(self, kind: str, status: int, text: str) -> str:
        if kind == "oversize":
            allowed = status in (400, 413, _TOO_MANY)
        else:
            refuses = kind in ("tools", "schema") and status == 400 and "support" in text
            allowed = status in (200, _TOO_MANY) or refuses
        if not allowed:
            self.record.fault(f"{kind}: {status} {text[:200]}")
        return str(status)

    async def _stream(self, kind: str, client: str, path: str, body: dict[str, Any], headers: dict[str, str]) -> str:
        patience = self.rng.randint(0, 20) if kind == "leaver" else None
        done = False
        async with self._answer(path, body, headers) as answer:
            if answer.status_code != 200:
                return self._judged(kind, answer.status_code, (await answer.aread()).decode(errors="replace"))
            if patience == 0:
                return "left at once"
            num_chunks = 0
            async for line in answer.aiter_lines():
                if kind == "slow":
                    await asyncio.sleep(0.05)
                if line == "data: [DONE]":
                    done = True
                elif line.startswith("data: "):
                    chunk = json.loads(line[6:])
                    if "error" in chunk:
                        if chunk["error"]["code"] == "queue_timeout":
                            return _TOO_LATE
                        self.record.fault(f"{kind}: {line[:300]}")
                    num_chunks += 1
                    if chunk.get("usage"):
                        self.record.tokens[client] += chunk["usage"]["completion_tokens"]
                    if num_chunks == patience:
                        return "left"
        if not done:
            self.record.fault(f"{kind}: the stream has no end")
        return "200"

    def _body(self, kind: str) -> dict[str, Any]:
        rng = self.rng
        # Room for what a template says of tools, and for the answer.
        num_prompt = int(min(rng.lognormvariate(4, 1), self.max_model_len // (4 if kind in ("tools", "schema") else 2)))
        if kind == "oversize":
            num_prompt = self.max_model_len * rng.choice((2, 40))
        text = " ".join(str(rng.randint(0, 9)) for _ in range(num_prompt // 2 + 1))
        body: dict[str, Any] = {"max_tokens": rng.randint(1, 64), "temperature": rng.choice((0, 1)), "seed": 1}
        if kind in ("tools", "schema"):
            body["messages"] = [{"role": "user", "content": text}]
            body |= {"tools": [TOOL], "tool_choice": "required"} if kind == "tools" else {"response_format": SCHEMA}
        else:
            body["prompt"] = text
        if kind == "choices":
            body["n"] = rng.randint(2, 4)
        if kind in ("stream", "leaver", "slow") or (kind == "tools" and rng.random() < 0.5):
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        return body


async def token_gaps(http: httpx.AsyncClient, key: str, num_tokens: int, token_id: int, after_s: float) -> list[float]:
    """Seconds between the tokens of one stream in which every token is the text of `token_id`, so that none is held back."""
    await asyncio.sleep(after_s)
    body = {"prompt": "0", "max_tokens": num_tokens, "stream": True, "ignore_eos": True, "logit_bias": {token_id: 100}}
    times: list[float] = []
    async with http.stream("POST", "/v1/completions", json=body, headers={"Authorization": f"Bearer {key}"}) as answer:
        assert answer.status_code == 200, await answer.aread()
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                times.append(monotonic())
    return [after - before for before, after in pairwise(times)]
