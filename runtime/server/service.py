"""A served model: what the routes share."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from runtime.prompts import Prompts
from runtime.server.async_engine import AsyncEngine
from runtime.server.errors import ApiError
from runtime.server.metrics import ServerMetrics
from runtime.server.sampling import GenerationDefaults
from runtime.server.text_bounds import TextBound
from runtime.server.wording import shown
from runtime.server.workers import Workers
from runtime.text_stream import Vocabulary


@dataclass
class Service:
    """`draining` refuses new generations and lets the open ones finish.

    `text_bound` is None where the vocabulary sets none. A stream that has nothing to say for `keep_alive_s` says that it lives.
    """

    model_name: str
    engine: AsyncEngine
    vocabulary: Vocabulary
    prompts: Prompts
    defaults: GenerationDefaults
    metrics: ServerMetrics
    workers: Workers
    text_bound: TextBound | None
    keep_alive_s: float
    created: int = field(default_factory=lambda: int(time.time()))
    draining: bool = False

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
