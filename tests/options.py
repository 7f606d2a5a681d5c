"""The commands' options, for the tests that show what each of them changes."""

from __future__ import annotations

from collections.abc import Iterator

import click

from optimizer.cli import coldforge

#: command -> the test file whose table says what each of its options changes
WALKED_IN = {
    "optimize": "tests/optimizer/test_every_option_counts.py",
    "retune": "tests/optimizer/retune/test_every_retune_option_counts.py",
    "worker": "tests/optimizer/workers/test_worker.py",
    "kernels inspect": "tests/optimizer/test_every_option_counts.py",
    "inspect": "tests/optimizer/test_every_option_counts.py",
    "verify": "tests/optimizer/test_every_option_counts.py",
    "diff": "tests/optimizer/difference/test_difference.py",
    "history": "tests/optimizer/history/test_history.py",
    "export": "tests/exporters/test_every_export_option_counts.py",
    "evaluate": "tests/optimizer/assessment/test_every_evaluate_option_counts.py",
    "serve": "tests/server/test_every_serve_option_counts.py",
    "bench": "tests/bench/test_every_bench_option_counts.py",
    "registry list": "tests/artifacts/test_registry_commands.py",
    "registry show": "tests/artifacts/test_registry_commands.py",
    "registry promote": "tests/artifacts/test_registry_commands.py",
    "registry rollback": "tests/artifacts/test_registry_commands.py",
    "registry prune": "tests/artifacts/test_registry_commands.py",
    "registry verify": "tests/artifacts/test_registry_commands.py",
}


def commands() -> dict[str, click.Command]:
    """Every command by what is typed after `coldforge`."""
    return dict(_commands(coldforge, ""))


def _commands(group: click.Group, prefix: str) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from _commands(command, f"{prefix}{name} ")
        else:
            yield prefix + name, command


def options(command: str) -> set[str]:
    """An option's long name, an argument's own."""
    return {parameter.opts[-1] for parameter in commands()[command].params}


def assert_listed(command: str, listed: set[str]) -> None:
    """That a table has every option of `command` and no other."""
    file = WALKED_IN[command]
    assert not (new := options(command) - listed), f"say in {file} what {', '.join(sorted(new))} of {command} changes"
    assert not (gone := listed - options(command)), f"{command} has no {', '.join(sorted(gone))}: remove it from {file}"
