"""`serve`: a bundle in, an OpenAI-compatible server out."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from artifacts.errors import UserError
from kernels.cpu.host import host as this_host
from runtime.registry_option import registry_option
from runtime.serving_limits import DRAIN_TIMEOUT_S, HTTP_KEEP_ALIVE_S, KEEP_ALIVE_S, MAX_QUEUE, MAX_WAIT_S
from runtime.user_errors import shown_to_user

if TYPE_CHECKING:
    from fastapi import FastAPI

    from runtime.loading import Loaded

logger = logging.getLogger(__name__)
_API_KEY = "COLDFORGE_API_KEY"


def _at_most_all_cores(_: click.Context, __: click.Parameter, num_threads: int | None) -> int | None:
    num_cores = this_host().num_cores
    if num_threads is not None and num_threads > num_cores:
        raise click.BadParameter(
            f"must be at most the {num_cores} cores that this process may use, got {num_threads}: more threads would only wait "
            "for each other; leave it out to use the bundle's number"
        )
    return num_threads


def _known_format(_: click.Context, parameter: click.Parameter, name: str | None) -> str | None:
    if name is not None:
        from runtime.answer import reasoning
        from runtime.tools import formats

        try:
            (formats.named if parameter.name == "tool_format" else reasoning.named)(name)
        except UserError as error:
            raise click.BadParameter(str(error)) from error
    return name


@click.command()
@click.argument("bundle", metavar="BUNDLE_OR_NAME")
@registry_option("Folder of the registry in which a NAME is looked up and followed.", default="registry")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True)
@click.option(
    "--api-key", envvar=_API_KEY, show_envvar=True, help="Refuse requests without the header Authorization: Bearer API_KEY."
)
@click.option(
    "--api-keys",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Refuse requests without a key of FILE, whose lines are NAME:SHA256, the second as printf %s KEY | sha256sum prints "
    "it. Keys must be random. Names stand in the log, and those of several keys share the server fairly. A changed file counts "
    "within a second; replace it by renaming a whole one.",
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
@click.option(
    "--stream-keep-alive",
    type=click.FloatRange(min=0, min_open=True),
    default=KEEP_ALIVE_S,
    show_default=True,
    metavar="SECONDS",
    help="After how long a stream that has nothing to say sends a comment, so that proxies leave it open.",
)
@click.option(
    "--http-keep-alive",
    type=click.IntRange(min=0),
    default=HTTP_KEEP_ALIVE_S,
    show_default=True,
    metavar="SECONDS",
    help="How long an idle connection stays open for the client's next request. A proxy in front should close its own earlier.",
)
@click.option(
    "--peaks",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="What this machine reaches, as coldforge bench --profile BUNDLE --json FILE measured it: /metrics then shows bytes/s "
    "and operations/s as shares of it, and which of them bounds the steps now.",
)
@click.option(
    "--log-requests",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Append a JSON line for each choice to FILE: arrival, tokens in and out, keyed hashes of the prompt's blocks of 512 "
    "tokens, and no text. It is Mooncake's form of a trace: model.yaml's workload: trace: reads it.",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="json: a line for each request too, with its x-request-id and its key's name; never a prompt or an answer.",
)
@click.option(
    "--tool-format",
    metavar="NAME",
    callback=_known_format,
    help="How the model writes tool calls: hermes, qwen-xml, llama3, mistral, mistral-v11, deepseek, deepseek-v3.1, harmony, "
    "json or none. Default: the bundle's, which is found from its chat template.",
)
@click.option(
    "--reasoning-format",
    metavar="NAME",
    callback=_known_format,
    help="How it marks what it thinks before it answers: think, mistral, seed, cohere, harmony, thinking, reasoning or "
    "none. Default: the bundle's.",
)
@shown_to_user()
def serve(
    bundle: str,
    root: Path,
    host: str,
    port: int,
    api_key: str | None,
    served_model_name: str | None,
    num_threads: int | None,
    max_queue: int,
    max_wait: float,
    drain_timeout: float,
    api_keys: Path | None,
    stream_keep_alive: float,
    http_keep_alive: int,
    log_format: str,
    peaks: Path | None,
    log_requests: Path | None,
    tool_format: str | None,
    reasoning_format: str | None,
) -> None:
    """Serve BUNDLE, or what NAME means, at /v1 of HOST:PORT. It is verified first; nothing is compiled or tuned.

    A NAME such as smollm2@production is followed: when `coldforge registry` moves it, the new bundle is loaded beside the old
    one, tried out, and takes over. No request notices.
    """
    from artifacts.registry.names import is_name

    name = bundle if is_name(bundle) and not Path(bundle).exists() else None
    _check_registry_counts(name)
    try:
        from runtime.bench.peaks_file import read_peaks
        from runtime.server.access_log import log_as_json
        from runtime.server.api_key import digest, read_keys
        from runtime.server.lifecycle import serve as serve_app
        from runtime.server.request_log import RequestLog
    except ModuleNotFoundError as error:
        raise click.ClickException(f"serving needs {error.name}: pip install 'coldforge[serve]'") from error
    if api_key is None:
        api_key = os.environ.get(_API_KEY)  # click takes a variable that is set and empty for one that is not set
    if api_key is not None:
        try:
            digest(api_key)
        except UserError as error:
            raise click.BadParameter(str(error), param_hint=f"--api-key or {_API_KEY}") from error

    if api_keys is not None:
        read_keys(api_keys)
    measured = None if peaks is None else read_peaks(peaks)
    request_log = None if log_requests is None else RequestLog(log_requests)
    if log_format == "json":
        log_as_json()

    is_json = log_format == "json"

    def say(line: str) -> None:
        if is_json:
            logger.info(line)
        else:
            click.echo(line, err=True)

    def open_bundle(folder: Path, **try_out: Any) -> Loaded:
        from artifacts.manifest import Answers
        from runtime.loading import load

        return load(folder, num_threads, max_queue, Answers(tools=tool_format, reasoning=reasoning_format), **try_out)

    def make(loaded: Loaded, **outliving: Any) -> FastAPI:
        from importlib.metadata import version

        from runtime.server.app import create_app

        return create_app(
            loaded.engine,
            loaded.tokenizer,
            model_name=model_name or loaded.manifest.name,
            version=version("coldforge"),
            chat_template=loaded.chat_template,
            generation_config=loaded.generation_config,
            report=loaded.report,
            api_key=api_key,
            api_keys=api_keys,
            max_queue=max_queue,
            max_wait_s=max_wait,
            keep_alive_s=stream_keep_alive,
            step_cost=loaded.step_cost,
            request_log=request_log,
            digest=loaded.manifest.digest,
            **outliving,
        )

    def first() -> FastAPI:
        if follower is None:
            loaded = open_bundle(Path(bundle))
            app = make(loaded, peaks=measured)
        else:
            app = follower.first()
        say(f"serving {model_name or loaded.manifest.name} at http://{host}:{port}/v1")
        return app

    model_name, follower = served_model_name, None
    if name is not None:
        from runtime.server.follower import Follower

        # Clients go on asking for it whatever the next bundle is called.
        model_name = served_model_name or name.partition("@")[0]
        follower = Follower.of(name, root, model_name, measured, open_bundle, make, say)
    try:
        serve_app(
            first,
            host,
            port,
            drain_timeout,
            http_keep_alive_s=http_keep_alive,
            logs_as_json=is_json,
            follower=follower,
        )
    finally:
        if request_log is not None:
            request_log.close()


def _check_registry_counts(name: str | None) -> None:
    context = click.get_current_context()
    if name is None and context.get_parameter_source("root") is click.core.ParameterSource.COMMANDLINE:
        raise click.BadParameter(
            "it is for a NAME such as smollm2@production; leave it out to serve a folder", param_hint="--registry"
        )
