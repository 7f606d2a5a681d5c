"""A served model: what the routes share, and `runtime.Engine` with them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tokenizers import Tokenizer

from runtime.bench.bound import Peaks
from runtime.chat import ChatTemplate
from runtime.engine_core import EngineCore
from runtime.grammars import Grammars
from runtime.heap import return_freed_memory
from runtime.prompts import Prompts
from runtime.server.admission import Admission
from runtime.server.async_engine import AsyncEngine
from runtime.server.errors import ApiError
from runtime.server.metrics import ServerMetrics
from runtime.server.request_log import RequestLog
from runtime.server.response_store import ResponseStore
from runtime.server.sampling import GenerationDefaults
from runtime.server.text_bounds import TextBound, text_bound
from runtime.server.wording import shown
from runtime.server.workers import Workers
from runtime.serving_limits import KEEP_ALIVE_S
from runtime.step_cost import StepCost
from runtime.text_stream import Vocabulary


@dataclass
class Service:
    """`draining` refuses new generations and lets the open ones finish.

    `text_bound` is None where the vocabulary sets none. A stream that has nothing to say for `keep_alive_s` says that it lives.
    All here is of one bundle, of `digest`, but `metrics`, `responses` and `request_log`, which outlive it where a server goes
    from one to the next.
    """

    model_name: str
    engine: AsyncEngine
    vocabulary: Vocabulary
    prompts: Prompts
    defaults: GenerationDefaults
    metrics: ServerMetrics
    workers: Workers
    grammars: Grammars
    text_bound: TextBound | None
    keep_alive_s: float
    request_log: RequestLog | None = None
    digest: str | None = None
    created: int = field(default_factory=lambda: int(time.time()))
    draining: bool = False
    responses: ResponseStore = field(default_factory=ResponseStore)

    @classmethod
    def over(
        cls,
        engine: EngineCore,
        tokenizer: Tokenizer,
        *,
        model_name: str,
        chat_template: ChatTemplate | None,
        generation_config: Mapping[str, Any] | None,
        max_queue: int,
        max_wait_s: float,
        keep_alive_s: float = KEEP_ALIVE_S,
        step_cost: StepCost | None = None,
        peaks: Peaks | None = None,
        request_log: RequestLog | None = None,
        digest: str | None = None,
        metrics: ServerMetrics | None = None,
        responses: ResponseStore | None = None,
    ) -> Service:
        """`engine` behind asyncio, and what its requests need; `start()` is left to the event loop that uses it.

        `generation_config` is the content of generation_config.json:
        UserError where it is malformed. `digest` is the bundle's, None if there is none. `metrics` and `responses` go on where
        a server had another bundle before; they are new where they are left out.
        """
        metrics = metrics or ServerMetrics(model_name, peaks)
        async_engine = AsyncEngine(engine, Admission(engine.max_num_seqs, max_queue, max_wait_s), metrics, step_cost)
        bound = text_bound(tokenizer)
        return_freed_memory()  # of the vocabulary, which was looked through
        vocabulary = Vocabulary(tokenizer)
        return cls(
            model_name=model_name,
            engine=async_engine,
            vocabulary=vocabulary,
            prompts=Prompts(tokenizer, chat_template),
            defaults=GenerationDefaults.from_config(generation_config or {}),
            metrics=metrics,
            workers=Workers(),
            grammars=Grammars(vocabulary, engine.vocab_size, engine.eos_token_ids),
            text_bound=bound,
            keep_alive_s=keep_alive_s,
            request_log=request_log,
            digest=digest,
            responses=ResponseStore() if responses is None else responses,
        )

    @property
    def fingerprint(self) -> str | None:
        """`system_fingerprint` of answers: the bundle's digest, as far as `coldforge registry list` shows it."""
        return None if self.digest is None else f"fp_{self.digest[:12]}"

    def start(self) -> None:
        """Call once, from the event loop that will use it."""
        self.engine.start()
        self.take_over()

    def take_over(self) -> None:
        """New requests come here from now on: /metrics says so."""
        self.engine.take_over()
        self.metrics.bundle.clear()
        if self.digest is not None:
            self.metrics.bundle.labels(self.digest).set(1)

    async def close(self) -> None:
        """End the engine's thread and the workers; requests still open fail."""
        await self.engine.close()
        self.workers.close()

    def empty(self) -> None:
        """Let go of all that is in memory for it, once it is closed and nobody asks any more.

        A cache of FastAPI's keeps the routes of applications that are gone, and routes keep their service.
        """
        vars(self).clear()

    def check_model(self, name: str | None) -> None:
        """404 unless the request means this model; one that names none does."""
        if name is not None and name != self.model_name:
            message = f"this server has the model {self.model_name!r}, not {shown(name)}"
            raise ApiError(404, message, param="model", code="model_not_found")

    def check_accepting(self) -> None:
        """503 while the server cannot take a generation."""
        if self.draining:
            raise ApiError(503, "the server is shutting down", retry_after_s=5)
        if self.engine.broken:
            raise ApiError(503, "the engine has failed; restart the server")
