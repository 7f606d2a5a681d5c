"""`coldforge registry`: what each command does, and what each of its options changes."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from artifacts.registry import Registry
from optimizer.cli import coldforge
from tests.options import assert_listed

NAME = "tiny@production"
#: each option is used below, and the test would fail without it
OPTIONS = {
    "registry list": set(),
    "registry show": {"name"},
    "registry promote": {"name", "bundle", "--why", "--evidence", "--expected"},
    "registry rollback": {"name", "--to", "--why"},
    "registry prune": {"--keep"},
    "registry verify": set(),
}


def test_every_option_is_listed() -> None:
    for command, listed in OPTIONS.items():
        assert_listed(command, listed)


def run(*arguments: str | Path) -> str:
    result = CliRunner().invoke(coldforge, ["registry", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.output


def test_the_commands(tmp_path: Path, bundles: list[Path]) -> None:
    here = ("--registry", tmp_path / "registry")
    evidence = tmp_path / "result.json"
    evidence.write_text("{}")
    first = run(*here, "promote", NAME, bundles[0], "--why", "the first").split()[2]
    assert "before" in run(*here, "promote", NAME, bundles[1], "--why", "5 % faster", "--evidence", evidence)
    shown = run(*here, "show", NAME).splitlines()
    assert "5 % faster" in shown[0] and "evidence" in shown[0] and "the first" in shown[1]
    assert f"{NAME} means {first}, before" in run(*here, "rollback", NAME, "--why", "slower")
    assert "already" in run(*here, "promote", NAME, first, "--why", "again")
    assert f"{NAME}  {first}" in run(*here, "list") and "without a name" in run(*here, "list")
    assert "2 bundles and 3 events are whole" in run(*here, "verify")
    assert "removed" in run(*here, "prune", "--keep", "0")
    assert "1 bundles" in run(*here, "verify")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("list",), "must be a registry"),
        (("rollback", NAME, "--why", "x"), "must be a registry"),
        (("promote", NAME, "no-such-folder", "--why", "x"), "no-such-folder"),
        (("promote", NAME, "0123456789abcdef", "--why", "x"), "is that of 0 bundles"),
    ],
)
def test_errors_are_one_line(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    result = CliRunner().invoke(coldforge, ["registry", "--registry", str(tmp_path / "registry"), *arguments])
    assert result.exit_code == 1 and message in result.output and "Traceback" not in result.output


def test_rollback_to_and_expected(tmp_path: Path, bundles: list[Path]) -> None:
    here = ("--registry", tmp_path / "registry")
    for bundle in bundles[:3]:
        run(*here, "promote", NAME, bundle, "--why", "better")
    first, second, third = (event.digest for event in Registry.open(tmp_path / "registry").events())
    line = ["registry", *map(str, here), "promote", NAME, first, "--why", "decided long ago", "--expected", second]
    refused = CliRunner().invoke(coldforge, line)
    assert refused.exit_code == 1 and f"must still mean {second}" in refused.output
    assert first[:12] in run(*here, "rollback", NAME, "--to", first[:8], "--why", "two back")
    run(*here, "promote", NAME, third, "--why", "better", "--expected", first)
