"""Requests and what an engine makes of them, for the tests of the engine."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count

import numpy as np

from runtime.engine_core import EngineCore
from runtime.request import Logprobs, Request, SamplingParams, TokenOutput

GREEDY = SamplingParams(temperature=0, max_tokens=8, logprobs=2)
PREFIX = tuple(np.random.default_rng(1).integers(0, 203, 64).tolist())  # what prompts may have in common


def prompt_of(num_shared: int, num_own: int, seed: int) -> tuple[int, ...]:
    return PREFIX[:num_shared] + tuple(np.random.default_rng(seed).integers(0, 203, num_own).tolist())


def finish(engine: EngineCore, arrivals: Mapping[int, list[Request]]) -> dict[str, list[TokenOutput]]:
    """Every output by request, requests arriving before the steps that are their keys."""
    outputs: dict[str, list[TokenOutput]] = {}
    for step in count():
        for request in arrivals.get(step, []):
            engine.add(request)
        if not engine.has_work() and step >= max(arrivals):
            return outputs
        assert step < 20_000, "the engine makes no progress"
        for output in engine.step():
            outputs.setdefault(output.request_id, []).append(output)
    raise AssertionError


def generate(engine: EngineCore, prompt: tuple[int, ...], params: SamplingParams = GREEDY) -> list[TokenOutput]:
    return finish(engine, {0: [Request("r", prompt, params)]})["r"]


def token_ids(outputs: list[TokenOutput]) -> list[int]:
    return [output.token_id for output in outputs if output.token_id is not None]


def results(
    outputs: list[TokenOutput],
) -> tuple[list[int | None], list[Logprobs | None], tuple[Logprobs, ...] | None, str | None]:
    """What must not depend on company: all but how much was cached. Log-probabilities are compared as they are, to the bit."""
    last = outputs[-1].finish_reason
    return [o.token_id for o in outputs], [o.logprobs for o in outputs], outputs[0].prompt_logprobs, last
