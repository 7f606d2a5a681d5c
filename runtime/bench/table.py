"""The latency surface for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from runtime.bench.client import ClosedLoop
from runtime.bench.metrics import Percentiles, Targets
from runtime.bench.surface import Point


def surface_table(points: Sequence[Point], model: str, targets: Targets) -> Table:
    """One row per cell; latencies as p50 / p90 / p99 in milliseconds."""
    table = Table(title=f"{model}: p50 / p90 / p99", caption=_caption(targets))
    for column in ("prompt", "output", "load", "TTFT ms", "ITL ms", "TPOT ms", "e2e ms", "tok/s", "req/s", "good/s", "errors"):
        table.add_column(column, justify="right", no_wrap=True)
    for point in points:
        summary = point.summary
        load = point.load
        table.add_row(
            str(point.num_prompt_tokens),
            str(point.num_output_tokens),
            f"{load.concurrency} at once" if isinstance(load, ClosedLoop) else f"{load.rate_per_s:g}/s",
            _cell(summary.ttft_ms),
            _cell(summary.itl_ms),
            _cell(summary.tpot_ms),
            _cell(summary.e2e_ms),
            f"{summary.output_tokens_per_s:.1f}",
            f"{summary.requests_per_s:.2f}",
            f"{summary.goodput_per_s:.2f}",
            str(summary.num_errors),
        )
    return table


def _cell(percentiles: Percentiles | None) -> str:
    if percentiles is None:
        return "-"
    return " / ".join(f"{value:.0f}" if value >= 100 else f"{value:.1f}" for value in vars(percentiles).values())


def _caption(targets: Targets) -> str:
    wanted = [f"{name} <= {ms:g} ms" for name, ms in (("TTFT", targets.ttft_ms), ("TPOT", targets.itl_ms)) if ms is not None]
    return f"good/s: requests with {' and '.join(wanted)}" if wanted else "good/s: no targets set"
