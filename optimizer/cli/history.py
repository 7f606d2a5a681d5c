"""`coldforge history`: how fast the nights found a model to be, and when that changed."""

from __future__ import annotations

from pathlib import Path

import click

from artifacts.errors import UserError
from runtime.registry_option import registry_option
from runtime.user_errors import shown_to_user


@click.command()
@click.argument("results", metavar="[RESULT.JSON|FOLDER]...", nargs=-1, type=click.Path(exists=True, path_type=Path))
@registry_option("Registry of the nights, or, with results given, of their bundles.")
@click.option("--name", metavar="NAME", help="Whose nights, such as smollm2@production.")
@click.option("--html", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path), help="Also write a page with plots.")
@shown_to_user()
def history(results: tuple[Path, ...], root: Path | None, name: str | None, html: Path | None) -> None:
    """Show every night's speed over the frozen reference bundle, and where it moved to another level.

    The nights are those of a name in a registry, or the results that coldforge retune wrote: files, or folders that hold
    result.json at any depth. Moves are found by Apache Otava (pip install 'coldforge[history]').
    """
    from artifacts.registry import Registry
    from optimizer.history import histories_of
    from optimizer.history.page import BundleFolders, write_page
    from optimizer.history.terminal import show
    from optimizer.nights.gathering import nights_of_files, nights_of_name

    registry = None if root is None else Registry.open(root)
    if results:
        if name is not None:
            raise UserError("nights come from results or from a name, not both; leave --name out")
        nights = nights_of_files(results)
    elif registry is None or name is None:
        raise UserError("nights come from --registry DIR and --name NAME, or from results; got neither")
    else:
        registry.digest_of(name)  # refuses a name that the registry has not
        nights = nights_of_name(registry, name)
    if not nights:
        raise UserError(f"{name or ', '.join(map(str, results))} has no night's result; run coldforge retune")
    histories = histories_of(nights)
    for one in histories:
        show(one)
    if html is not None:
        for path in write_page(histories, BundleFolders(registry), html):
            click.echo(f"wrote {path}")
