"""What the examples of deployment must agree with: the routes that are served, the options that `serve` has."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import click
import httpx
import pytest

from runtime.cli import serve
from tests.server.conftest import running


@pytest.fixture(scope="session")
def served_paths() -> set[str]:
    with running() as served:
        return set(httpx.get(f"{served.url}/openapi.json").json()["paths"])


@pytest.fixture(scope="session")
def check_arguments() -> Callable[[Sequence[str]], dict[str, object]]:
    """Fails unless `serve` takes these arguments; gives its parameters by name."""

    def check(arguments: Sequence[str]) -> dict[str, object]:
        values, rest, _ = serve.make_parser(click.Context(serve)).parse_args(list(arguments))
        assert not rest
        return dict(values)

    return check
