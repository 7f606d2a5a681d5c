"""`coldforge kernels inspect`."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from optimizer.cli.kernels import kernels


def run(*arguments: str) -> Result:
    return CliRunner().invoke(kernels, ["inspect", *arguments])


def test_shows_every_distinct_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    result = run("rms_norm", "--gpu", "l40s", "--symbol", "gpu_rms_norm", "--tokens", "16", "--tokens", "1", "--jobs", "1")
    assert result.exit_code == 0, result.output
    # The two models have rows of different widths; the number of tokens is no constant of a kernel.
    assert result.output.count("sm_89") == 2
    assert "smollm2-135m x16" in result.output and "llama-3.1-8b x16" in result.output


def test_says_what_cannot_be_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    result = run("scaled_matmul", "--gpu", "a100", "--symbol", "gpu_scaled_matmul_e4m3", "--tokens", "1")
    assert result.exit_code == 0
    assert "sm_80 does not multiply e4m3" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("rms_nrm",), "'rms_nrm' is not an op with GPU kernels; nearest: rms_norm"),
        (("rms_norm", "--gpu", "h1000"), "'h1000' is not a GPU; nearest: h100"),
        (("rms_norm", "--gpu", "cpu"), "'cpu' is not a GPU"),
        (("rms_norm", "--symbol", "gpu_rms_nrm"), "'gpu_rms_nrm' is not an entry point of rms_norm; nearest: gpu_rms_norm"),
    ],
)
def test_a_name_that_is_not_known_is_answered_with_the_nearest(arguments: tuple[str, ...], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
