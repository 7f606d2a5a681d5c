"""What a caller asks of the engine, and what it gets back, in tokens. Text lives in `text_stream` and `server`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from artifacts.errors import UserError
from runtime.logits.constraint import Constraint
from runtime.reasoning import Reasoning

FinishReason = Literal["stop", "length", "abort"]


class RequestError(UserError):
    """A request asks for what is not to be had. `param` is the field of it that is at fault, None for the whole."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True)
class SamplingParams:
    """How the next token is chosen. Defaults are plain sampling; temperature 0 is greedy.

    Order of application, as in vLLM: the request's grammar, logit_bias, penalties, min_tokens, reasoning_budget (all in
    `runtime.logits`), temperature, min_p, top_k, top_p. `reasoning_budget` is how many tokens may be thought, None any number.
    `top_k` 0 means off. `logprobs` None means none wanted; k means the sampled token's and the k most likely ones',
    of the distribution before all of these. Raises RequestError on a value out of range.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    max_tokens: int = 16
    min_tokens: int = 0
    stop_token_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    reasoning_budget: int | None = None
    logprobs: int | None = None
    prompt_logprobs: bool = False
    """Also score the prompt: each prompt token's logprob (and top ones) given those before it."""

    def __post_init__(self) -> None:
        rules: tuple[tuple[str, bool, str], ...] = (
            ("temperature", self.temperature >= 0, "at least 0"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("top_k", self.top_k >= 0, "at least 0 (0 is off)"),
            ("min_p", 0 <= self.min_p <= 1, "between 0 and 1"),
            ("max_tokens", self.max_tokens >= 0, "at least 0"),
            ("min_tokens", 0 <= self.min_tokens <= self.max_tokens, "between 0 and max_tokens"),
            ("reasoning_budget", (self.reasoning_budget or 0) >= 0, "at least 0"),
            ("repetition_penalty", self.repetition_penalty > 0, "above 0"),
            ("presence_penalty", -2 <= self.presence_penalty <= 2, "between -2 and 2"),
            ("frequency_penalty", -2 <= self.frequency_penalty <= 2, "between -2 and 2"),
            ("logprobs", self.logprobs is None or 0 <= self.logprobs <= 20, "between 0 and 20"),
        )
        for name, holds, rule in rules:
            if not holds:
                raise RequestError(f"{name} must be {rule}, got {getattr(self, name)!r}", name)


@dataclass(frozen=True)
class Request:
    """One sequence to generate. `id` is unique among the requests that an engine holds.

    `prompt_token_ids` is kept, not copied: do not change it while the request is open. The answer is held to `constraint`;
    with `reasoning`, only what comes after it. Lower `priority` goes first, as in vLLM; within one, `client`s share the
    engine fairly. Only requests with the same `cache_salt` share cached blocks.
    """

    id: str
    prompt_token_ids: Sequence[int]
    params: SamplingParams = SamplingParams()
    constraint: Constraint | None = None
    reasoning: Reasoning | None = None
    priority: int = 0
    client: str = ""
    cache_salt: str = ""


@dataclass(frozen=True)
class Logprobs:
    """Natural-log probability of a token, its rank (1 is the most likely), and the most likely tokens at its place."""

    token_id: int
    logprob: float
    rank: int
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class TokenOutput:
    """What one engine step gave one request.

    `error` is what failed if the request alone could not go on: it has ended then, by "abort", and others have not noticed.
    `token_id` is None when the step only ended the request (max_tokens = 0, abort). `num_cached_tokens` is how much of the
    prompt came from the prefix cache; `prompt_logprobs` comes once, with the first output, and starts at prompt token 1.
    """

    request_id: str
    token_id: int | None
    finish_reason: FinishReason | None = None
    logprobs: Logprobs | None = None
    num_cached_tokens: int = 0
    prompt_logprobs: tuple[Logprobs, ...] | None = None
    error: Exception | None = None
