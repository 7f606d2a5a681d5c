"""What the benchmark measures, defined once. Times are seen by the client, network included."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: Every figure of a `Summary`. They go into the JSON with it: numbers do not travel without their meaning.
DEFINITIONS = {
    "e2e_ms": "End-to-end latency: from sending a request to the last chunk of its answer that has text. In an open loop the "
    "request is sent when its arrival is due, so the server's queue counts.",
    "ttft_ms": "Time to first token: from sending a request to the first chunk that has text.",
    "itl_ms": "Inter-token latency: the gaps between consecutive chunks that have text. The first token is not part of it. "
    "Servers send a token per chunk, except where a character spans tokens.",
    "tpot_ms": "Time per output token: (e2e - TTFT) / (n - 1) for n output tokens as the server counts them; none where n < 2.",
    "requests_per_s": "Completed requests per second of the whole run.",
    "output_tokens_per_s": "Output tokens of completed requests per second of the whole run.",
    "goodput_per_s": "Completed requests per second with TTFT and TPOT both within their targets (itl_ms is TPOT's). "
    "A target that is not set always holds.",
    "percentiles": "Interpolated linearly; of ITL over all gaps of all requests, of the others over requests.",
    "duration_s": "From the first request's start to the last one's end.",
    "num_completed": "Requests answered whole.",
    "num_prompt_tokens": "Of all completed requests, as the server counts them.",
    "num_cached_tokens": "Of all completed requests' prompts, what the server says a cache had; null if it does not say.",
    "num_output_tokens": "Of all completed requests, as the server counts them.",
    "num_errors": "Requests that failed. They count in nothing else.",
    "errors": "What was said of them, each message once.",
}


@dataclass(frozen=True)
class Answer:
    """One request as the client saw it. `text_times_s` are the arrivals of its chunks, on the clock of `sent_s`."""

    sent_s: float
    text_times_s: tuple[float, ...]
    num_prompt_tokens: int
    num_output_tokens: int
    error: str | None = None
    num_cached_tokens: int | None = None
    """Of the prompt, from the server's prefix cache; None if it does not say."""

    @property
    def ttft_ms(self) -> float:
        return (self.text_times_s[0] - self.sent_s) * 1e3

    @property
    def e2e_ms(self) -> float:
        return (self.text_times_s[-1] - self.sent_s) * 1e3

    @property
    def itls_ms(self) -> tuple[float, ...]:
        return tuple((b - a) * 1e3 for a, b in zip(self.text_times_s, self.text_times_s[1:], strict=False))

    @property
    def tpot_ms(self) -> float | None:
        return (self.e2e_ms - self.ttft_ms) / (self.num_output_tokens - 1) if self.num_output_tokens > 1 else None


@dataclass(frozen=True)
class Percentiles:
    p50: float
    p90: float
    p99: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Percentiles | None:
        """None of nothing."""
        return cls(*(float(p) for p in np.percentile(values, (50, 90, 99)))) if values else None


@dataclass(frozen=True)
class Targets:
    """Latency targets; None means that there is none."""

    ttft_ms: float | None = None
    itl_ms: float | None = None

    def met_by(self, answer: Answer) -> bool:
        tpot_ms = answer.tpot_ms
        in_time = self.ttft_ms is None or answer.ttft_ms <= self.ttft_ms
        return in_time and (self.itl_ms is None or tpot_ms is None or tpot_ms <= self.itl_ms)


@dataclass(frozen=True)
class Summary:
    """A run's figures, as DEFINITIONS says. None where no request gives one."""

    num_completed: int
    num_errors: int
    num_prompt_tokens: int
    num_cached_tokens: int | None
    num_output_tokens: int
    duration_s: float
    ttft_ms: Percentiles | None
    itl_ms: Percentiles | None
    tpot_ms: Percentiles | None
    e2e_ms: Percentiles | None
    requests_per_s: float
    output_tokens_per_s: float
    goodput_per_s: float
    errors: tuple[str, ...]


def summarize(answers: Sequence[Answer], duration_s: float, targets: Targets = Targets()) -> Summary:
    """The figures of one run that took `duration_s`."""
    completed = [answer for answer in answers if answer.error is None]
    cached = [answer.num_cached_tokens for answer in completed if answer.num_cached_tokens is not None]
    num_output_tokens = sum(answer.num_output_tokens for answer in completed)
    return Summary(
        num_completed=len(completed),
        num_errors=len(answers) - len(completed),
        num_prompt_tokens=sum(answer.num_prompt_tokens for answer in completed),
        num_cached_tokens=sum(cached) if cached else None,
        num_output_tokens=num_output_tokens,
        duration_s=duration_s,
        ttft_ms=Percentiles.of([answer.ttft_ms for answer in completed]),
        itl_ms=Percentiles.of([itl for answer in completed for itl in answer.itls_ms]),
        tpot_ms=Percentiles.of([answer.tpot_ms for answer in completed if answer.tpot_ms is not None]),
        e2e_ms=Percentiles.of([answer.e2e_ms for answer in completed]),
        requests_per_s=len(completed) / duration_s,
        output_tokens_per_s=num_output_tokens / duration_s,
        goodput_per_s=sum(map(targets.met_by, completed)) / duration_s,
        errors=tuple(dict.fromkeys(answer.error for answer in answers if answer.error is not None)),
    )
