"""The latency surface: what a request costs at each prompt length and concurrency."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from runtime.bench.client import ClosedLoop, Endpoint, OpenLoop, run_load
from runtime.bench.metrics import DEFINITIONS, Summary, Targets, summarize


@dataclass(frozen=True)
class Point:
    """A cell of the grid: prompts of `num_prompt_tokens` under `load`, and what was measured."""

    num_prompt_tokens: int
    num_output_tokens: int
    load: ClosedLoop | OpenLoop
    summary: Summary

    @property
    def mean_prompt_tokens(self) -> float:
        """As the server counts them, which may tokenize otherwise than asked; what was asked where nothing was answered."""
        summary = self.summary
        return summary.num_prompt_tokens / summary.num_completed if summary.num_completed else self.num_prompt_tokens


def num_requests_under(load: ClosedLoop | OpenLoop, num_requests: int) -> int:
    """How many requests a cell sends: at least one for each client, so that there are as many at once as it says."""
    return max(num_requests, load.concurrency) if isinstance(load, ClosedLoop) else num_requests


async def measure_surface(
    endpoint: Endpoint,
    prompt_lengths: Sequence[int],
    loads: Sequence[ClosedLoop | OpenLoop],
    *,
    num_output_tokens: int,
    num_requests: int,
    targets: Targets,
    seed: int,
    on_cell: Callable[[str], None] = lambda _: None,
    on_answer: Callable[[], None] = lambda: None,
) -> list[Point]:
    """Every prompt length under every load, one after the other, each with prompts of its own.

    Prompts differ within a cell and between cells, and between seeds, so that no prefix cache answers for the model: a server
    that has seen a seed knows its prompts. `on_cell` is called with each cell before it starts, `on_answer` with each
    request as it ends.
    """
    points: list[Point] = []
    num_cells = len(prompt_lengths) * len(loads)
    for length in prompt_lengths:
        for load in loads:
            on_cell(f"prompts of {length} tokens, {load} ({len(points) + 1} of {num_cells})")
            count = num_requests_under(load, num_requests)
            prompts = await endpoint.prompts(length, count, seed=hash((seed, len(points))))
            run = await run_load(endpoint, prompts, num_output_tokens, load, lambda _: on_answer())
            points.append(Point(length, num_output_tokens, load, summarize(run.answers, run.duration_s, targets)))
    return points


def as_json(points: Sequence[Point], model: str, targets: Targets, seed: int) -> dict[str, Any]:
    """The surface as plain JSON data, with what its figures mean; units are in the names."""
    return {
        "model": model,
        "seed": seed,
        "targets": asdict(targets),
        "definitions": DEFINITIONS,
        "points": [asdict(point) for point in points],
    }
