"""Every option of `coldforge retune` reaches the night, and every verdict has its exit code."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
from click.testing import CliRunner, Result

from optimizer.cli import coldforge
from optimizer.nights.night import EXIT_CODES, Night, Verdict
from optimizer.retune.command import Request
from tests.options import assert_listed

#: option -> a value, and where it arrives
OPTIONS = {
    "--incumbent": ("tiny@production", "incumbent", "tiny@production"),
    "--registry": ("registry", "registry", Path("registry")),
    "--reference": ("reference", "reference", "reference"),
    "--output": ("nights", "output", Path("nights")),
}


def retuned(monkeypatch: pytest.MonkeyPatch, *options: str, verdict: Verdict = "kept") -> tuple[Request, Result]:
    asked: list[Request] = []

    def run_retune(request: Request) -> Night:
        asked.append(request)
        return Night(model="tiny", time="now", verdict=verdict, why="so", incumbent="0" * 64, fingerprint={})

    monkeypatch.setattr("optimizer.retune.command.run_retune", run_retune)
    result = CliRunner().invoke(coldforge, ["retune", __file__, "--incumbent", "bundle", *options])
    return asked[0], result


def test_every_option_is_listed() -> None:
    assert_listed("retune", {"spec_path", *OPTIONS})


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_of_retune(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    value, field, arrives = OPTIONS[option]
    without, _ = retuned(monkeypatch)
    request, _ = retuned(monkeypatch, option, value)
    assert getattr(request, field) == arrives != getattr(without, field)
    assert request.spec_path == Path(__file__)


@pytest.mark.parametrize("verdict", get_args(Verdict))
def test_each_verdict_has_an_exit_code_of_its_own(verdict: Verdict, monkeypatch: pytest.MonkeyPatch) -> None:
    assert retuned(monkeypatch, verdict=verdict)[1].exit_code == EXIT_CODES[verdict]
    assert len(set(EXIT_CODES.values())) == len(EXIT_CODES) == len(get_args(Verdict))


def test_an_incumbent_that_is_nothing_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "model.yaml").write_text("source: nothing")
    result = CliRunner().invoke(coldforge, ["retune", str(tmp_path / "model.yaml"), "--incumbent", "x"])
    assert result.exit_code == 1 and result.output.count("Error: ") == 1
