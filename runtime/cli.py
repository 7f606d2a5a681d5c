"""`serve`: a bundle in, an OpenAI-compatible server out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from fastapi import FastAPI

_API_KEY = "COLDFORGE_API_KEY"


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True)
@click.option(
    "--api-key", envvar=_API_KEY, show_envvar=True, help="Refuse requests without the header Authorization: Bearer API_KEY."
)
@click.option("--served-model-name", metavar="NAME", help="Default: the bundle's name.")
@click.option("--num-threads", type=click.IntRange(min=1), help="Default: the bundle's.")
def serve(
    bundle: Path, host: str, port: int, api_key: str | None, served_model_name: str | None, num_threads: int | None
) -> None:
    """Serve BUNDLE at /v1 of HOST:PORT. It is verified first; nothing is compiled or tuned."""
    from artifacts.errors import BundleError
    from kernels.cpu.library import LibraryRefused

    try:
        from runtime.server.api_key import ApiKey
        from runtime.server.serving import serve as serve_app
    except ModuleNotFoundError as error:
        raise click.ClickException(f"serving needs {error.name}: pip install 'coldforge[serve]'") from error
    if api_key is None:
        api_key = os.environ.get(_API_KEY)  # click takes a variable that is set and empty for one that is not set
    if api_key is not None:
        try:
            ApiKey(api_key)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint=f"--api-key or {_API_KEY}") from error

    def build() -> FastAPI:
        from importlib.metadata import version

        from runtime.loading import load
        from runtime.server.app import create_app

        loaded = load(bundle, num_threads)
        name = served_model_name or loaded.manifest.name
        click.echo(f"serving {name} at http://{host}:{port}/v1", err=True)
        return create_app(
            loaded.engine,
            loaded.tokenizer,
            model_name=name,
            version=version("coldforge"),
            chat_template=loaded.chat_template,
            generation_config=loaded.generation_config,
            api_key=api_key,
        )

    try:
        serve_app(build, host, port)
    except (BundleError, LibraryRefused, ValueError) as error:
        raise click.ClickException(str(error)) from error
