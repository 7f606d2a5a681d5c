"""The commands. Everything heavy is imported by the command that needs it, so that --help answers at once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

import click

from optimizer.cli.evaluate import evaluate
from optimizer.cli.history import history
from optimizer.cli.kernels import kernels
from optimizer.cli.registry import registry
from optimizer.cli.retune import retune
from optimizer.cli.worker import worker
from runtime.bench.command import bench
from runtime.cli import serve
from runtime.user_errors import shown_to_user

EXIT_NOTHING_PASSES = 3


@click.command()
@click.argument("spec_path", metavar="MODEL.YAML", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--gpu",
    "target",
    metavar="NAME",
    help="Device to build for, GPUs with commas, or 8xh200 to plan for several; default: the target in MODEL.YAML, else cpu.",
)
@click.option(
    "-o",
    "--output",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Folder of the bundle; default: output in MODEL.YAML.",
)
@click.option(
    "--trials",
    type=click.IntRange(min=1),
    help="Trials of the precision search, including those of earlier runs; default: search.trials.",
)
@click.option(
    "--timeout", metavar="T", help="Time limit of the precision search, such as 90s, 8m or 90; default: search.timeout."
)
@click.option(
    "--storage", metavar="URL", help="Optuna storage of the study; default: search.storage, else SQLite beside the bundle."
)
@click.option(
    "--workers",
    metavar="N",
    type=click.IntRange(min=1),
    help="Score trials in N processes here, and let coldforge worker join elsewhere; default: search.workers, else neither.",
)
@shown_to_user()
def optimize(
    spec_path: Path,
    target: str | None,
    output: Path | None,
    trials: int | None,
    timeout: str | None,
    storage: str | None,
    workers: int | None,
) -> None:
    """Search, validate and tune, and write the winner as a frozen bundle.

    The same command goes on where a killed one stopped. Ctrl-C ends the search with what there is.
    Exit code 3: no plan is within the accuracy gate, and no bundle is written.
    """
    try:
        from optimizer.run.command import Overrides, run_optimize
        from optimizer.search.proof import NothingPasses

        try:
            run_optimize(spec_path, Overrides(target, output, trials, timeout, storage, workers))
        except NothingPasses as error:
            click.echo(f"nothing passes the gate, so no bundle was written: {error}", err=True)
            sys.exit(EXIT_NOTHING_PASSES)
    except KeyboardInterrupt:
        click.echo("stopped; run the same command to continue", err=True)
        sys.exit(130)


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@shown_to_user()
def inspect(bundle: Path) -> None:
    """Show what a bundle holds, after checking its manifest."""
    from optimizer.bundle.inspection import describe

    describe(bundle)


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@shown_to_user()
def verify(bundle: Path) -> None:
    """Check every byte of a bundle against its manifest."""
    from optimizer.bundle.inspection import verify_and_report

    verify_and_report(bundle)


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--format", "form", type=click.Choice(["compressed-tensors", "gguf", "onnx"]), required=True)
@click.option(
    "-o", "--output", metavar="DIR_OR_FILE", type=click.Path(path_type=Path), required=True, help="Must not exist yet."
)
@click.option(
    "--dtype",
    type=click.Choice(["float16", "bfloat16", "float32"]),
    help="Dtype in which readers of compressed-tensors compute; default: float16, which keeps the scales of int4.",
)
@shown_to_user()
def export(bundle: Path, form: str, output: Path, dtype: Literal["float16", "bfloat16", "float32"] | None) -> None:
    """Write a bundle for another runtime: a folder for compressed-tensors (vLLM) and onnx, a file for gguf (llama.cpp).

    Codes and scales stay as they are wherever the format can say them; what it cannot is listed, here and in the export.
    """

    from optimizer.exporters import export_bundle

    for line in export_bundle(bundle, form, output, dtype).lines():
        click.echo(line)


@click.command()
@click.argument("left", metavar="A", type=click.Path(path_type=Path))
@click.argument("right", metavar="B", type=click.Path(path_type=Path))
@click.option("--html", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path), help="Also write a page of it.")
@shown_to_user()
def diff(left: Path, right: Path, html: Path | None) -> None:
    """Show two bundles side by side: plan, kernels, limits, accuracy, speed, evidence. Both are verified first."""
    from optimizer.difference import Facts, difference_of
    from optimizer.difference.page import render_difference
    from optimizer.difference.terminal import show

    difference = difference_of(Facts.read(left), Facts.read(right))
    show(difference)
    if html is not None:
        html.write_text(render_difference(difference), encoding="utf-8")
        click.echo(f"wrote {html}")


@click.group()
@click.version_option(package_name="coldforge")
def coldforge() -> None:
    """Forge a model into a frozen deployment bundle, then serve it."""


for command in (optimize, worker, retune, serve, bench, evaluate, inspect, verify, diff, export, kernels, registry, history):
    coldforge.add_command(command)
