"""`serve`: a bundle in, an OpenAI-compatible server out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from artifacts.errors import UserError
from kernels.cpu.host import host as this_host
from runtime.serving_limits import DRAIN_TIMEOUT_S, MAX_QUEUE, MAX_WAIT_S
from runtime.user_errors import shown_to_user

if TYPE_CHECKING:
    from fastapi import FastAPI

_API_KEY = "COLDFORGE_API_KEY"


def _at_most_all_cores(_: click.Context, __: click.Parameter, num_threads: int | None) -> int | None:
    num_cores = this_host().num_cores
    if num_threads is not None and num_threads > num_cores:
        raise click.BadParameter(
            f"must be at most the {num_cores} cores that this process may use, got {num_threads}: more threads would only wait "
            "for each other; leave it out to use the bundle's number"
        )
    return num_threads


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True)
@click.option(
    "--api-key", envvar=_API_KEY, show_envvar=True, help="Refuse requests without the header Authorization: Bearer API_KEY."
)
@click.option("--served-model-name", metavar="NAME", help="Name of the model for clients. Default: the bundle's.")
@click.option(
    "--num-threads",
    type=click.IntRange(min=1),
    callback=_at_most_all_cores,
    help="Threads, at most one for each core. Default: the bundle's.",
)
@click.option(
    "--max-queue",
    type=click.IntRange(min=0),
    default=MAX_QUEUE,
    show_default=True,
    metavar="N",
    help="Sequences that may wait, beside those that run (a request with n = 4 counts as four). More are answered 429, with a "
    "Retry-After from the measured rate; a single request for more than can run and wait is answered 400.",
)
@click.option(
    "--max-wait",
    type=click.FloatRange(min=0, min_open=True),
    default=MAX_WAIT_S,
    show_default=True,
    metavar="SECONDS",
    help="Longest wait in the queue. A request is answered 429 if it would wait longer, by the measured rate, or has waited so "
    "long; a stream that has begun gets an error event.",
)
@click.option(
    "--drain-timeout",
    type=click.FloatRange(min=0),
    default=DRAIN_TIMEOUT_S,
    show_default=True,
    metavar="SECONDS",
    help="After SIGTERM or SIGINT, how long open requests may take to end. A second signal ends the server at once.",
)
@shown_to_user()
def serve(
    bundle: Path,
    host: str,
    port: int,
    api_key: str | None,
    served_model_name: str | None,
    num_threads: int | None,
    max_queue: int,
    max_wait: float,
    drain_timeout: float,
) -> None:
    """Serve BUNDLE at /v1 of HOST:PORT. It is verified first; nothing is compiled or tuned."""
    try:
        from runtime.server.api_key import ApiKey
        from runtime.server.lifecycle import serve as serve_app
    except ModuleNotFoundError as error:
        raise click.ClickException(f"serving needs {error.name}: pip install 'coldforge[serve]'") from error
    if api_key is None:
        api_key = os.environ.get(_API_KEY)  # click takes a variable that is set and empty for one that is not set
    if api_key is not None:
        try:
            ApiKey(api_key)
        except UserError as error:
            raise click.BadParameter(str(error), param_hint=f"--api-key or {_API_KEY}") from error

    def build() -> FastAPI:
        from importlib.metadata import version

        from runtime.loading import load
        from runtime.server.app import create_app

        loaded = load(bundle, num_threads, max_queue)
        name = served_model_name or loaded.manifest.name
        app = create_app(
            loaded.engine,
            loaded.tokenizer,
            model_name=name,
            version=version("coldforge"),
            chat_template=loaded.chat_template,
            generation_config=loaded.generation_config,
            report=loaded.report,
            api_key=api_key,
            max_queue=max_queue,
            max_wait_s=max_wait,
        )
        click.echo(f"serving {name} at http://{host}:{port}/v1", err=True)
        return app

    serve_app(build, host, port, drain_timeout)
