"""`coldforge registry`: which bundle is in use, and which was before."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from runtime.registry_option import registry_option
from runtime.user_errors import shown_to_user

if TYPE_CHECKING:
    from artifacts.registry import Event, Registry

_SHOWN = 12


@click.group()
@registry_option("Folder of the registry.", default="registry")
@click.pass_context
def registry(context: click.Context, root: Path) -> None:
    """Keep bundles by digest, and names such as smollm2@production that move between them."""
    context.obj = root


@registry.command("list")
@click.pass_obj
@shown_to_user()
def list_names(root: Path) -> None:
    """Show each name, the bundle that it means, and since when and why."""
    held = _open(root)
    last = {event.name: event for event in held.events() if event.moves}
    for name, event in sorted(last.items()):
        click.echo(f"{name}  {event.digest[:_SHOWN]}  since {event.time}  {event.action}: {event.why}")
    unnamed = sorted(set(held.digests()) - {event.digest for event in last.values()})
    if unnamed:
        click.echo(f"without a name: {', '.join(digest[:_SHOWN] for digest in unnamed)}")
    if not last and not unnamed:
        click.echo("empty")


@registry.command()
@click.argument("name")
@click.pass_obj
@shown_to_user()
def show(root: Path, name: str) -> None:
    """Show the history of NAME, the last event first, or what the bundle of a digest holds."""
    from artifacts.registry.names import is_digest

    held = _open(root)
    if is_digest(name):
        from optimizer.bundle.inspection import describe

        describe(held.folder(name))
        return
    held.digest_of(name)
    for event in reversed([event for event in held.events() if event.name == name]):
        replaces = f" (before: {event.replaces[:_SHOWN]})" if event.replaces else ""
        evidence = f"; evidence {event.evidence[:_SHOWN]}" if event.evidence else ""
        click.echo(
            f"{event.sequence:>5}  {event.time}  {event.action} {event.digest[:_SHOWN]}{replaces}: {event.why}{evidence}"
        )


@registry.command()
@click.argument("name")
@click.argument("bundle", metavar="BUNDLE_OR_DIGEST")
@click.option("--why", required=True, metavar="TEXT", help="One line, kept in the history.")
@click.option(
    "--evidence",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file to keep with it, such as result.json.",
)
@click.option("--expected", metavar="DIGEST", help="Move the name only if it still means this bundle.")
@click.pass_obj
@shown_to_user()
def promote(root: Path, name: str, bundle: str, why: str, evidence: Path | None, expected: str | None) -> None:
    """Let NAME mean a bundle: a folder, which is copied in, or the digest of one that is here.

    The registry is made if there is none.
    """
    from artifacts.registry import Registry
    from artifacts.registry.names import is_digest

    held = Registry.create(root)
    is_here = is_digest(bundle) and not Path(bundle).exists()
    digest = bundle if is_here else held.add(Path(bundle))
    if expected is not None:
        expected = held.folder(expected).name
    event = held.promote(name, digest, why=why, evidence=None if evidence is None else evidence.read_bytes(), expected=expected)
    click.echo(f"{name} means {held.digest_of(name)[:_SHOWN]} already" if event is None else _told(event))


@registry.command()
@click.argument("name")
@click.option("--to", metavar="DIGEST", help="Which earlier bundle; default: the one before this.")
@click.option("--why", required=True, metavar="TEXT", help="One line, kept in the history.")
@click.pass_obj
@shown_to_user()
def rollback(root: Path, name: str, to: str | None, why: str) -> None:
    """Let NAME mean the bundle that it meant before."""
    click.echo(_told(_open(root).rollback(name, to, why=why)))


@registry.command()
@click.option(
    "--keep",
    type=click.IntRange(min=0),
    default=3,
    show_default=True,
    metavar="N",
    help="Earlier bundles of each name that stay, for rollbacks.",
)
@click.pass_obj
@shown_to_user()
def prune(root: Path, keep: int) -> None:
    """Remove bundles that no name means; history and evidence stay."""
    removed = _open(root).prune(keep)
    click.echo(f"removed {', '.join(digest[:_SHOWN] for digest in removed) or 'nothing'}")


@registry.command("verify")
@click.pass_obj
@shown_to_user()
def verify_all(root: Path) -> None:
    """Check every byte of every bundle, the history and its evidence."""
    held = _open(root)
    click.echo(f"{len(held.verify())} bundles and {len(held.events())} events are whole")


def _open(root: Path) -> Registry:
    from artifacts.registry import Registry

    return Registry.open(root)


def _told(event: Event) -> str:
    before = f", before {event.replaces[:_SHOWN]}" if event.replaces else ""
    return f"{event.name} means {event.digest[:_SHOWN]}{before}"
