"""The option that says where the registry is: the same for every command that asks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def registry_option(help: str, default: str | None = None) -> Callable[[F], F]:
    """`--registry DIR`, or $COLDFORGE_REGISTRY, as the parameter `root`: a Path, or None where neither is given."""
    shown: dict[str, Any] = {} if default is None else {"default": default, "show_default": True}
    return click.option(
        "--registry",
        "root",
        envvar="COLDFORGE_REGISTRY",
        show_envvar=True,
        metavar="DIR",
        type=click.Path(file_okay=False, path_type=Path),
        help=help,
        **shown,
    )
