"""Files and command lines that people reported to other projects as misread there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from optimizer.cli import optimize
from optimizer.run.command import Overrides, apply
from optimizer.spec import ModelSpec, load_spec
from runtime.server.sampling import GenerationDefaults

Run = Callable[..., ModelSpec]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`optimize` with arguments around `model.yaml`, and the specification that it would run."""
    (tmp_path / "model.gguf").touch()
    monkeypatch.chdir(tmp_path)
    heard: list[ModelSpec] = []

    def run_optimize(path: Path, overrides: Overrides) -> None:
        heard.append(apply(load_spec(path), overrides))

    monkeypatch.setattr("optimizer.run.command.run_optimize", run_optimize)

    def start(text: str, *arguments: str) -> ModelSpec:
        (tmp_path / "model.yaml").write_text(f"source: model.gguf\n{text}\n")
        result = CliRunner().invoke(optimize, arguments or ["model.yaml"])
        assert result.exit_code == 0, result.output
        return heard[-1]

    return start


# https://github.com/hiyouga/LlamaFactory/issues/4014, https://github.com/Reed-CompBio/spras/issues/484: read as text
@pytest.mark.parametrize("number", ["1e-3", "1E-3", "5e-2", "1.0e-3", ".5", "2."])
def test_numbers_without_a_point_before_the_exponent(run: Run, number: str) -> None:
    assert run(f"gate: {{max_kl: {number}}}").gate.max_kl == float(number)


def test_the_yaml_library_alone_would_read_text() -> None:
    """Why the cases above are cases."""
    assert yaml.safe_load("1e-3") == "1e-3"


# https://github.com/CodeIntelligenceTesting/cifuzz/pull/229, https://github.com/alibaba/loongsuite-go/issues/484:
# a number without its unit is refused in one place and taken for another unit in the other
@pytest.mark.parametrize(("text", "seconds"), [("300", 300), ("5", 5), ("5s", 5), ("1h30m", 5400), ("0.5", 0.5)])
def test_a_timeout_means_the_same_in_the_file_and_on_the_command_line(run: Run, text: str, seconds: float) -> None:
    in_the_file = [run(f"search: {{timeout: {written}}}") for written in (text, f"'{text}'")]
    assert [spec.search.timeout_s for spec in (*in_the_file, run("", "model.yaml", "--timeout", text))] == [seconds] * 3


# https://github.com/vllm-project/vllm/issues/43252: --config=FILE was read otherwise than --config FILE
# https://github.com/vllm-project/vllm/issues/8947: what came first decided which was heard
@pytest.mark.parametrize("line", ["model.yaml --trials 7", "--trials 7 model.yaml", "--trials=7 model.yaml"])
def test_the_command_line_wins_wherever_it_stands(run: Run, line: str) -> None:
    assert run("search: {trials: 3}", *line.split()).search.trials == 7


# https://github.com/vllm-project/vllm/issues/12096, https://github.com/Blaizzy/mlx-vlm/issues/1331: defaults of the model
# that a server reads over; https://github.com/vllm-project/vllm/issues/11861: no way to state them
def test_sampling_that_is_stated_is_read_by_others_and_served(run: Run, tmp_path: Path) -> None:
    from transformers import GenerationConfig

    stated = run("generation: {temperature: 0.2, top_p: 0.9}").generation.over({"eos_token_id": 2, "top_p": 1.0, "top_k": 20})
    (tmp_path / "generation_config.json").write_text(json.dumps(stated))
    theirs, ours = GenerationConfig.from_pretrained(tmp_path), GenerationDefaults.from_config(stated)
    assert (theirs.temperature, theirs.top_p, theirs.top_k, theirs.eos_token_id) == (0.2, 0.9, 20, 2)
    assert theirs.do_sample is True, "without it transformers takes the most likely token, whatever the temperature"
    assert (ours.temperature, ours.top_p, ours.top_k) == (0.2, 0.9, 20)
