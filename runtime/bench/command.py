"""`coldforge bench URL` and `coldforge bench --profile BUNDLE`."""

from __future__ import annotations

import math
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from runtime.user_errors import shown_to_user

if TYPE_CHECKING:
    from artifacts.reader import Bundle
    from runtime.bench.bound import Peaks
    from runtime.bench.client import Endpoint
    from runtime.bench.surface import Point

    Measure = Callable[[Endpoint, Callable[[str], None], Callable[[], None]], Awaitable[list[Point]]]

_OF_A_PROFILE = ("profile", "prompt_tokens", "json_path")


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


class _Positive(click.ParamType[float]):
    """A positive, finite number."""

    name = "N"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = float(str(value))
        except ValueError:
            number = math.nan
        if not 0 < number < math.inf:
            self.fail(f"must be a number above 0, got {value!r}", param, ctx)
        return number


_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@click.argument("url", required=False)
@click.option("--prompt-tokens", type=_Numbers(), default="128,512", show_default=True, help="Prompt lengths.")
@click.option("--concurrency", type=_Numbers(), default="1,4", show_default=True, help="Concurrent clients (closed loop).")
@click.option("--rate", type=_Positive(), metavar="PER_S", help="Poisson arrivals (open loop).")
@click.option("--output-tokens", type=click.IntRange(1), metavar="N", default=64, show_default=True, help="Tokens per answer.")
@click.option(
    "--requests",
    type=click.IntRange(1),
    metavar="N",
    default=16,
    show_default=True,
    help="Requests in each cell; at least one for each client.",
)
@click.option("--ttft-ms", type=_Positive(), metavar="MS", help="Goodput counts answers whose TTFT is at most this.")
@click.option("--itl-ms", type=_Positive(), metavar="MS", help="Goodput counts answers whose TPOT is at most this.")
@click.option(
    "--bundle",
    type=_FOLDER,
    metavar="DIR",
    help="The bundle that URL serves on this machine: also show what limits its decode.",
)
@click.option("--profile", type=_FOLDER, metavar="DIR", help="Instead of a URL: profile a step of this bundle, by kernel.")
@click.option("--model", metavar="NAME", help="Default: the first that the server lists.")
@click.option("--api-key", envvar="OPENAI_API_KEY", metavar="KEY", show_envvar=True)
@click.option(
    "--seed",
    type=int,
    metavar="N",
    help="Seed of prompts and arrivals; default: a new one, so that no prefix cache holds the prompts.",
)
@click.option(
    "--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Also write all results to this file."
)
@click.pass_context
@shown_to_user()
def bench(
    ctx: click.Context,
    url: str | None,
    prompt_tokens: tuple[int, ...],
    output_tokens: int,
    concurrency: tuple[int, ...],
    rate: float | None,
    requests: int,
    ttft_ms: float | None,
    itl_ms: float | None,
    bundle: Path | None,
    profile: Path | None,
    model: str | None,
    api_key: str | None,
    seed: int | None,
    json_path: Path | None,
) -> None:
    """Measure the OpenAI-compatible server at URL: latencies, throughput and goodput over a grid of prompt lengths and loads.

    With --bundle also whether decode is bound by memory or by compute. With --profile, and no server: how long each
    kernel takes in decode at a context of each prompt length and in prefill of it, against what this machine reaches.
    """
    if (url is None) == (profile is None):
        raise click.UsageError("give either the URL of a server or --profile with a bundle's folder")
    if profile is not None:
        given = [name for name in ctx.params if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE]
        if alien := [name for name in given if name not in _OF_A_PROFILE]:
            raise click.UsageError(f"--profile asks no server: leave out --{alien[0].replace('_', '-')}")
        _write(json_path, _profiled(profile, prompt_tokens))
        return
    if bundle is not None and rate is not None:
        raise click.UsageError("--bundle needs --concurrency, which sets the batch size of decode; leave out --rate")

    if rate is not None and ctx.get_parameter_source("concurrency") is ParameterSource.COMMANDLINE:
        raise click.UsageError("--rate is an open loop, whose clients do not wait: leave out --concurrency")

    from runtime.bench.client import ClosedLoop, OpenLoop
    from runtime.bench.metrics import Targets
    from runtime.bench.roofline import Roofline
    from runtime.bench.surface import as_json, measure_surface, num_requests_under
    from runtime.bench.table import bound_text, surface_text

    assert url is not None
    roofline = None
    if bundle is not None:
        opened, peaks = _open_here(bundle, "while the server is idle")
        roofline = Roofline(opened.manifest, peaks)
    targets = Targets(ttft_ms, itl_ms)
    seed = secrets.randbits(32) if seed is None else seed
    loads = [ClosedLoop(c) for c in concurrency] if rate is None else [OpenLoop(rate, seed)]
    total = len(prompt_tokens) * sum(num_requests_under(load, requests) for load in loads)

    async def measure(endpoint: Endpoint, on_cell: Callable[[str], None], on_answer: Callable[[], None]) -> list[Point]:
        return await measure_surface(
            endpoint,
            prompt_tokens,
            loads,
            num_output_tokens=output_tokens,
            num_requests=requests,
            targets=targets,
            seed=seed,
            on_cell=on_cell,
            on_answer=on_answer,
        )

    points, model_name = _measured(url, api_key, model, total, measure)
    click.echo(surface_text(points, model_name, targets))
    figures = as_json(points, model_name, targets, seed)
    if roofline is not None:
        click.echo("\n" + bound_text(roofline.peaks, [(point, roofline.of(point)) for point in points]))
        figures["decode"] = roofline.as_json(points)
    _write(json_path, figures)
    if not any(point.summary.num_completed for point in points):
        raise click.ClickException("no request was answered")


def _measured(url: str, api_key: str | None, model: str | None, num_requests: int, measure: Measure) -> tuple[list[Point], str]:
    """Connects, measures under a progress bar (a line per cell where there is no terminal), and names the model."""
    import asyncio

    import openai
    from rich.console import Console
    from rich.progress import Progress

    from runtime.bench.client import Endpoint

    console = Console(stderr=True)

    async def run() -> tuple[list[Point], str]:
        endpoint = await Endpoint.connect(url, api_key, model)
        with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
            task = progress.add_task(f"bench {endpoint.model}", total=num_requests)

            def on_cell(cell: str) -> None:
                if console.is_terminal:
                    progress.update(task, description=cell)
                else:
                    click.echo(f"measuring {cell}", err=True)

            points = await measure(endpoint, on_cell, lambda: progress.advance(task))
        await endpoint.close()
        return points, endpoint.model

    try:
        return asyncio.run(run())
    except openai.OpenAIError as error:
        raise click.ClickException(f"{url}: {error}") from error


def _profiled(folder: Path, prompt_tokens: tuple[int, ...]) -> dict[str, Any]:
    """Prints the profile of each phase at each prompt length; the same as plain JSON data."""
    from dataclasses import asdict

    from runtime.bench.profile import Profile, profile_decode, profile_prefill
    from runtime.bench.table import peaks_text, profile_text
    from runtime.loading import load_runner
    from runtime.threads import num_threads_here

    bundle, peaks = _open_here(folder, "first")
    click.echo(f"{bundle.manifest.name} at {num_threads_here(bundle.manifest.serving)} threads; {peaks_text(peaks)}")
    runner = load_runner(bundle)
    profiles: list[Profile] = []
    for profile_phase in (profile_decode, profile_prefill):
        for num_tokens in prompt_tokens:
            profile = profile_phase(runner, num_tokens, peaks)
            same_step = [(p.phase, p.num_tokens, p.context_len) for p in profiles]
            if (profile.phase, profile.num_tokens, profile.context_len) in same_step:
                continue  # a prompt longer than a step holds is cut to what it holds
            profiles.append(profile)
            click.echo("\n" + profile_text(profile))
    return {
        "model": bundle.manifest.name,
        "num_threads": num_threads_here(bundle.manifest.serving),
        "peaks": asdict(peaks),
        "profiles": [profile.as_json() for profile in profiles],
    }


def _open_here(folder: Path, when: str) -> tuple[Bundle, Peaks]:
    from runtime.bench.roofline import open_here

    click.echo(f"measuring this machine's peaks, {when}: a few seconds", err=True)
    return open_here(folder)


def _write(path: Path | None, figures: dict[str, Any]) -> None:
    import json

    if path is not None:
        path.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
