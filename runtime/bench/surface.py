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


async def measure_surface(
    endpoint: Endpoint,
    prompt_lengths: Sequence[int],
    loads: Sequence[ClosedLoop | OpenLoop],
    *,
    num_output_tokens: int,
    num_requests: int,
    targets: Targets,
    seed: int = 0,
    on_cell: Callable[[str], None] = lambda _: None,
    on_answer: Callable[[], None] = lambda: None,
) -> list[Point]:
    """Every prompt length under every load, one after the other, each with prompts of its own.

    Prompts differ within a cell and between cells, so that no prefix cache answers for the model. `on_cell` hears of each
    cell before it starts, `on_answer` of each request as it ends.
    """
    points: list[Point] = []
    for length in prompt_lengths:
        for load in loads:
            on_cell(f"prompts of {length} tokens, {load}")
            prompts = await endpoint.prompts(length, num_requests, seed=hash((seed, len(points))))
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
