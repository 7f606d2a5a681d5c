"""`coldforge evaluate`: the gate's sets, statistics and verdict for any bundle or endpoint."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from runtime.user_errors import shown_to_user

if TYPE_CHECKING:
    from optimizer.assessment.contender import Contender

EXIT_GATE_FAILS = 1
_EXISTING_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


class CannotEvaluate(click.ClickException):
    """Nothing was judged: 1 would read as a failed gate."""

    exit_code = 2


@click.command()
@click.argument("target", metavar="BUNDLE|URL")
@click.option(
    "--sets",
    "sets_path",
    metavar="FILE",
    type=_EXISTING_FILE,
    required=True,
    help="YAML with `evaluation` and `gate`, as in model.yaml.",
)
@click.option("--against", metavar="BUNDLE|URL", help="What it must not fall behind. Without it, scores are only shown.")
@click.option("--model", metavar="NAME", help="Model to ask for at URL. Default: the only one that it has.")
@click.option("--against-model", metavar="NAME", help="The same of --against.")
@click.option(
    "--api-key", envvar="COLDFORGE_API_KEY", show_envvar=True, metavar="KEY", help="Key for URL; better in the environment."
)
@click.option(
    "--against-api-key",
    envvar="COLDFORGE_AGAINST_API_KEY",
    show_envvar=True,
    metavar="KEY",
    help="The same of --against.",
)
@click.option("--json", "json_path", metavar="FILE", type=click.Path(path_type=Path), help="Write all figures there, too.")
@shown_to_user(CannotEvaluate)
def evaluate(
    target: str,
    sets_path: Path,
    against: str | None,
    model: str | None,
    against_model: str | None,
    api_key: str | None,
    against_api_key: str | None,
    json_path: Path | None,
) -> None:
    """Ask a bundle, or an OpenAI-compatible endpoint at an http(s) URL, the sets of FILE, and hold it to the gate.

    Exit code 0: within the gate. 1: a set is not passed, or is inconclusive. 2: something cannot be read, reached or asked.
    """
    from rich.console import Console

    from optimizer.records.progress import Reporter
    from optimizer.spec.sets_spec import load_sets_spec

    if against is None and against_model is not None:
        raise click.UsageError("--against-model needs --against")
    spec = load_sets_spec(sets_path)
    candidate = _opened(target, model, api_key, "--model")
    other = None if against is None else _opened(against, against_model, against_api_key, "--against-model")

    from optimizer.assessment.assess import assess
    from optimizer.assessment.table import shortfalls, table_of

    assessment = assess(spec, candidate, other, Reporter())
    Console(soft_wrap=True).print(table_of(assessment))
    for line in shortfalls(assessment):
        click.echo(line)
    if json_path is not None:
        import json

        json_path.write_text(json.dumps(assessment.record(), indent=2) + "\n", encoding="utf-8")
    if not assessment.passed:
        sys.exit(EXIT_GATE_FAILS)


def _opened(target: str, model: str | None, api_key: str | None, option: str) -> Contender:
    """The bundle or the endpoint, ready. Heavy imports are those of its kind."""
    if not target.startswith(("http://", "https://")):
        if model is not None:
            raise click.UsageError(f"{option} is for endpoints, and {target} is none: a URL begins with http:// or https://")
        from optimizer.assessment.bundle import BundleContender

        return BundleContender(Path(target))
    try:
        from optimizer.assessment.endpoint import EndpointContender
    except ModuleNotFoundError as error:
        raise click.UsageError(f"asking an endpoint needs {error.name}: pip install 'coldforge[bench]'") from error
    return EndpointContender(target, model, api_key)
