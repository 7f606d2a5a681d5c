"""Every option of the commands that make, compare and look into bundles changes something."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from optimizer.cli import coldforge
from optimizer.run.command import Overrides, apply
from optimizer.spec import ModelSpec, load_spec
from tests.options import assert_listed

#: two values of each; what they change in model.yaml is walked by test_every_key_counts.py
OPTIMIZE: dict[str, tuple[str, str, Callable[[ModelSpec], object]]] = {
    "--gpu": ("cpu", "h100", lambda spec: spec.target),
    "--output": ("a", "b", lambda spec: spec.output),
    "--trials": ("3", "4", lambda spec: spec.search.trials),
    "--timeout": ("8", "8m", lambda spec: spec.search.timeout_s),
    "--storage": ("sqlite:///a.db", "sqlite:///b.db", lambda spec: spec.search.storage),
    "--workers": ("2", "3", lambda spec: spec.search.workers),
}
#: two command lines that differ in the option alone
KERNELS = {
    "op": ("rms_norm", "silu_and_mul"),
    "--gpu": ("rms_norm --gpu h100", "rms_norm --gpu l40s"),
    "--symbol": ("rms_norm", "rms_norm --symbol gpu_rms_norm"),
    "--tokens": ("rms_norm", "rms_norm --tokens 2"),
    "--jobs": ("rms_norm", "rms_norm --jobs 1"),
}


def test_every_option_is_listed() -> None:
    assert_listed("optimize", {"spec_path", *OPTIMIZE})
    assert_listed("kernels inspect", {*KERNELS})
    for command in ("inspect", "verify"):
        assert_listed(command, {"bundle"})  # another folder is another bundle: test_cli.py


def specification(folder: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> ModelSpec:
    """What `optimize` would run."""
    run: list[ModelSpec] = []

    def run_optimize(path: Path, overrides: Overrides) -> None:
        run.append(apply(load_spec(path), overrides))

    monkeypatch.setattr("optimizer.run.command.run_optimize", run_optimize)
    result = CliRunner().invoke(coldforge, ["optimize", str(folder / "model.yaml"), *options])
    assert result.exit_code == 0, result.output
    return run[0]


@pytest.mark.parametrize("option", OPTIMIZE)
def test_an_option_of_optimize(option: str, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.yaml").write_text(json.dumps({"source": str(tiny_llama)}))
    one, other, seen = OPTIMIZE[option]
    made = [seen(specification(tmp_path, monkeypatch, *given)) for given in ((), (option, one), (option, other))]
    assert made[1] != made[2] and made[2] != made[0], f"{option} changes nothing"


@pytest.mark.parametrize("option", KERNELS)
def test_an_option_of_kernels_inspect(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    class Compiler:
        def __init__(self, jobs: int | None) -> None:
            asked.append(jobs)

        def __enter__(self) -> None: ...

        def __exit__(self, *_: object) -> None: ...

    def default_records(symbols: Any, device: Any, tokens: Any, *_: object) -> None:
        asked.append((tuple(symbols), device.name, tuple(tokens)))
        raise KeyboardInterrupt

    monkeypatch.setattr("kernels.compile.cross_compile.CrossCompiler", Compiler)
    monkeypatch.setattr("optimizer.tuning.gpu.default_records.default_records", default_records)
    for line in KERNELS[option]:
        CliRunner().invoke(coldforge, ["kernels", "inspect", *line.split()])
    assert len(asked) == 4 and asked[:2] != asked[2:], f"{option} changes nothing"
