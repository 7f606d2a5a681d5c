"""`coldforge retune`: one night."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from runtime.registry_option import registry_option
from runtime.user_errors import shown_to_user


@click.command()
@click.argument("spec_path", metavar="MODEL.YAML", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--incumbent",
    required=True,
    metavar="BUNDLE|NAME",
    help="What is in use: a folder, or a name of the registry, which may move.",
)
@registry_option("Where names are, and where nights are kept.")
@click.option(
    "--reference", metavar="BUNDLE|NAME|DIGEST", help="A frozen bundle, always the same: speeds of all nights are ratios to it."
)
@click.option(
    "-o",
    "--output",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the candidate, result.json, summary.md and what was measured go; default: output in MODEL.YAML with .retune.",
)
@shown_to_user()
def retune(spec_path: Path, incumbent: str, root: Path | None, reference: str | None, output: Path | None) -> None:
    """Validate the bundle in use again, search from what its making knew, and promote only what is proven better.

    Exit code 0: promoted. 3: kept. 4: regressed, and nothing to take its place. 5: inconclusive. 1: failed.
    """
    from optimizer.nights.night import EXIT_CODES
    from optimizer.retune.command import Request, run_retune

    try:
        night = run_retune(Request(spec_path, incumbent, root, reference, output))
    except KeyboardInterrupt:
        click.echo("stopped; run the same command to continue", err=True)
        sys.exit(130)
    sys.exit(EXIT_CODES[night.verdict])
