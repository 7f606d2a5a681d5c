"""What the commands say, and with which exit code: one line, no traceback."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from artifacts.reader import read_manifest
from optimizer.cli import coldforge
from tests.optimizer.conftest import MakeProject, Project


def changed(project: Project, **changes: Any) -> None:
    project.spec_path.write_text(json.dumps(json.loads(project.spec_path.read_text()) | changes, indent=0))


def refusal(project: Project, *options: str, code: int = 1) -> str:
    """The one line that a refused command says."""
    result = project.optimize(*options)
    assert result.exit_code == code, result.output
    assert isinstance(result.exception, SystemExit)
    errors = [line for line in result.output.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1 and result.output.endswith(errors[0] + "\n"), result.output
    assert not project.bundle.exists()
    return errors[0]


@pytest.mark.parametrize(
    ("names", "fault"),
    [
        ("cpu,h100", "a bundle is for one device or for several GPUs, got 'cpu,h100'"),
        ("h100,h200", "devices of a bundle must differ in architecture, got 'h100,h200'; build a bundle for each"),
    ],
)
def test_devices_that_do_not_go_together(project: MakeProject, names: str, fault: str) -> None:
    assert refusal(project(), "--gpu", names) == f"Error: {fault}"


def test_a_device_that_is_not_known(project: MakeProject) -> None:
    line = refusal(project(), "--gpu", "tpu")
    assert line.startswith("Error: a device is one of a10, a100, b200, cpu, ") and line.endswith("; got 'tpu'")


def test_a_typo_is_named_with_file_line_and_the_nearest_key(project: MakeProject) -> None:
    made = project()
    made.spec_path.write_text("source: tiny\nevaluation:\n  num_sequences: 4\ngates: {max_kl: 0.1}\n")
    assert re.search(r"model\.yaml:4: gates: unknown key; .*gate\b", refusal(made))


def test_a_typo_in_the_space_is_named_in_its_file(project: MakeProject) -> None:
    made = project()
    (made.folder / "space.json").write_text('{\n"serving": {\n"max_num_seq": [4]}}')
    assert re.search(r"space\.json:3: serving\.max_num_seq: unknown key; .*max_num_seqs", refusal(made))


@pytest.mark.parametrize(("options", "rule"), [
    (["--timeout", "soon"], r"--timeout must be a duration such as 90s, 8m or 1h30m, .* got 'soon'"),
    (["--timeout", "0"], r"--timeout must be greater than 0, got '0'"),
    (["--storage", ""], r"--storage .* at least 1 character, got ''"),
    (["--storage", "nonsense://x"], r"storage must be a URL that Optuna can open, .* got 'nonsense://x'"),
    (["--storage", "sqlite:////nowhere/at/all/study.db"], r"storage must be .*/nowhere/at/all/study\.db"),
])  # fmt: skip
def test_an_option_that_cannot_be(project: MakeProject, options: list[str], rule: str) -> None:
    assert re.search(rule, refusal(project(), *options))


@pytest.mark.parametrize("options", [["--trials", "0"], ["--trials", "many"], ["--nothing"]])
def test_usage(project: MakeProject, options: list[str]) -> None:
    assert options[0] in refusal(project(), *options, code=2)


def test_planning_refuses_what_it_does_not_do(project: MakeProject) -> None:
    made = project()
    made.spec_path.write_text("source: random\nconfig: tiny/config.json\ntarget: h100\noutput: out\n")
    for option, value in (("--trials", "3"), ("--timeout", "8")):
        assert f"leave out {option}" in refusal(made, option, value)


@pytest.mark.parametrize(("choice", "bits_per_weight"), [("fastest", 4.125), ("most_accurate", 16)])
def test_a_model_larger_than_the_device_is_refused_before_anything_is_tuned(
    project: MakeProject, tiny_llama: Path, choice: str, bits_per_weight: float
) -> None:
    made = project()
    config = json.loads((tiny_llama / "config.json").read_text())
    sizes = {"hidden_size": 16384, "intermediate_size": 53248, "num_hidden_layers": 126, "num_attention_heads": 128}
    (made.folder / "large.json").write_text(json.dumps(config | sizes | {"num_key_value_heads": 8, "head_dim": 128}))
    search = f"search: {{choice: {choice}}}\n"
    made.spec_path.write_text(f"source: random\nconfig: large.json\ntarget: h100\nname: large\noutput: out\n{search}")
    line = refusal(made)
    gib = 126 * 16384 * (2 * 16384 + 2 * 1024 + 3 * 53248) * bits_per_weight / 8 / 2**30
    assert f"({gib:.1f} of weights)" in line and "large must fit h100, which has 67.1 GiB for weights and KV cache" in line


def test_a_source_that_is_not_there(project: MakeProject) -> None:
    made = project()
    changed(made, source="gone")
    assert re.search(r"model\.yaml:\d+: source: must be a path that exists, got .*/gone", refusal(made))


def test_a_source_without_weights(project: MakeProject, tiny_llama: Path) -> None:
    made = project()
    (made.folder / "half").mkdir()
    (made.folder / "half" / "config.json").write_bytes((tiny_llama / "config.json").read_bytes())
    changed(made, source="half")
    assert "half" in refusal(made)


def test_a_text_that_is_too_short(project: MakeProject) -> None:
    made = project()
    (made.folder / "short.txt").write_text("a few words, " * 12)
    changed(made, evaluation={"text": ["short.txt"], "tokens_per_sequence": 32})
    line = refusal(made)
    assert "short.txt: 8 sequences of 32 tokens are needed" in line and "got 4" in line


def test_a_malformed_trace(project: MakeProject) -> None:
    made = project()
    (made.folder / "trace.jsonl").write_text('{"timestamp": 0, "input_length": 4, "output_length": 4}\n{"timestamp": 9}\n')
    changed(made, workload={"trace": "trace.jsonl"})
    assert "trace.jsonl:2: a request needs timestamp" in refusal(made)


def test_shapes_that_no_offered_scheme_fits(project: MakeProject) -> None:
    line = refusal(project(schemes=["int4-g128-asym"]))
    assert "no scheme offered for 'embed' fits its shape (300, 64)" in line
    assert "in_features 64 is not a multiple of group size 128" in line


def test_an_output_that_is_something_else_is_left_alone(project: MakeProject) -> None:
    made = project(search={"trials": 1})
    made.bundle.mkdir()
    (made.bundle / "diary.txt").write_text("mine")
    result = made.optimize()
    assert result.exit_code == 1, result.output
    assert "must not exist yet or must be a bundle" in result.output.splitlines()[-1]
    assert (made.bundle / "diary.txt").read_text() == "mine"


def test_a_compiler_that_refuses_the_kernels(project: MakeProject, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler = tmp_path / "c++"
    compiler.write_text('#!/bin/sh\ntest "$1" = --version && echo broken 1.0 && exit 0\necho no such flag >&2\nexit 1\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    result = project().optimize()
    assert result.exit_code == 1
    assert "failed with status 1:\nno such flag" in result.output


def test_verify_and_inspect(finished: Project) -> None:
    verified = CliRunner().invoke(coldforge, ["verify", str(finished.bundle)])
    assert verified.exit_code == 0 and "verified" in verified.output
    shown = CliRunner().invoke(coldforge, ["inspect", str(finished.bundle)])
    manifest = read_manifest(finished.bundle)
    assert shown.exit_code == 0
    assert manifest.name in shown.output and "QUANT_MATMUL_ROWS" in shown.output and "KL 0.0" in shown.output


@pytest.mark.parametrize("command", ["verify", "inspect"])
def test_what_is_no_bundle(command: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(coldforge, [command, str(tmp_path)])
    assert result.exit_code == 1
    assert result.output.startswith("Error: ") and "must be a folder with a manifest.json" in result.output
