"""`coldforge worker`: another machine joins a search."""

from __future__ import annotations

from pathlib import Path

import click

from runtime.user_errors import shown_to_user


@click.command()
@click.argument("spec_path", metavar="MODEL.YAML", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--storage", metavar="URL", help="Optuna storage of the search; default: search.storage in MODEL.YAML.")
@click.option(
    "-w",
    "--workspace",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for quantized weights; default: output in MODEL.YAML, with .worker behind it.",
)
@click.option("--threads", metavar="N", type=click.IntRange(min=1), help="Threads that a trial takes; default: every core.")
@shown_to_user()
def worker(spec_path: Path, storage: str | None, workspace: Path | None, threads: int | None) -> None:
    """Score trials of a search that `optimize --workers` runs elsewhere, until it ends.

    MODEL.YAML and the checkpoint must be copies of those there, and scores the same to the last bit, or the search is not
    joined. A worker that is killed loses its trial alone. Ctrl-C leaves after the trial.
    """
    from optimizer.run.worker import run_worker

    run_worker(spec_path, storage, workspace, threads)
