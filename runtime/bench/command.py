"""`coldforge bench URL`."""

from __future__ import annotations

from pathlib import Path

import click


class _Numbers(click.ParamType[tuple[int, ...]]):
    """Comma-separated positive integers."""

    name = "N,N,..."

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(int(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"must be integers separated by commas, such as 128,512; got {value!r}", param, ctx)
        if min(numbers) < 1:
            self.fail(f"must be at least 1 each, got {value!r}", param, ctx)
        return numbers


@click.command()
@click.argument("url")
@click.option("--prompt-tokens", type=_Numbers(), default="128,512", show_default=True, help="Prompt lengths.")
@click.option("--output-tokens", type=click.IntRange(min=1), default=64, show_default=True, help="Tokens per answer.")
@click.option("--concurrency", type=_Numbers(), default="1,4", show_default=True, help="Clients at once.")
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), help="Poisson arrivals per second, not --concurrency.")
@click.option("--requests", type=click.IntRange(min=1), default=16, show_default=True, help="Requests per cell.")
@click.option("--ttft-ms", type=float, help="Target of the goodput.")
@click.option("--itl-ms", type=float, help="Target of the goodput.")
@click.option("--model", help="Default: the first that the server lists.")
@click.option("--api-key", envvar="OPENAI_API_KEY")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Also write the figures here.")
def bench(
    url: str,
    prompt_tokens: tuple[int, ...],
    output_tokens: int,
    concurrency: tuple[int, ...],
    rate: float | None,
    requests: int,
    ttft_ms: float | None,
    itl_ms: float | None,
    model: str | None,
    api_key: str | None,
    seed: int,
    json_path: Path | None,
) -> None:
    """Measure the OpenAI-compatible server at URL: latencies, throughput and goodput over a grid of loads."""
    import asyncio
    import json

    import openai
    from rich.console import Console
    from rich.progress import Progress

    from runtime.bench.client import ClosedLoop, Endpoint, OpenLoop
    from runtime.bench.metrics import Targets
    from runtime.bench.surface import Point, as_json, measure_surface
    from runtime.bench.table import surface_table

    targets = Targets(ttft_ms, itl_ms)
    loads = [ClosedLoop(c) for c in concurrency] if rate is None else [OpenLoop(rate, seed)]

    async def measure() -> tuple[list[Point], str]:
        endpoint = await Endpoint.connect(url, api_key, model)
        with Progress(console=Console(stderr=True)) as progress:
            task = progress.add_task(f"bench {endpoint.model}", total=len(prompt_tokens) * len(loads) * requests)
            points = await measure_surface(
                endpoint,
                prompt_tokens,
                loads,
                num_output_tokens=output_tokens,
                num_requests=requests,
                targets=targets,
                seed=seed,
                on_answer=lambda: progress.advance(task),
            )
        await endpoint.close()
        return points, endpoint.model

    try:
        points, model_name = asyncio.run(measure())
    except openai.OpenAIError as error:
        raise click.ClickException(f"{url}: {error}") from error
    Console().print(surface_table(points, model_name, targets))
    if json_path is not None:
        json_path.write_text(json.dumps(as_json(points, model_name, targets), indent=2) + "\n", encoding="utf-8")
    if not any(point.summary.num_completed for point in points):
        raise click.ClickException("no request was answered")
