"""model.yaml: defaults, paths, errors and the digest that names a study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from optimizer.spec import ModelSpec, load_spec, parse_duration
from search_spaces.located_yaml import LocatedError

ROOT = Path(__file__).parents[2]
SOURCES = {"tiny model.gguf": 64 * "0"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tiny model.gguf").touch()
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("words")
    return tmp_path


def load(folder: Path, text: str) -> ModelSpec:
    (folder / "model.yaml").write_text(text)
    return load_spec(folder / "model.yaml")


def test_a_source_may_be_onnx(folder: Path) -> None:
    built = folder / "built"
    built.mkdir()
    (built / "genai_config.json").write_text("{}")
    (built / "decoder.onnx").write_bytes(b"")
    assert load(folder, "source: built\n").name == "built"
    assert load(folder, "source: built/decoder.onnx\n").name == "decoder"


def test_a_source_is_enough(folder: Path) -> None:
    spec = load(folder, "source: tiny model.gguf\n")
    assert spec.source == folder / "tiny model.gguf"
    assert spec.name == "tiny-model"
    assert spec.output == folder / "bundles" / "tiny-model"
    assert spec.target == "cpu"
    assert spec.workload.concurrency == 1
    assert spec.gate.max_kl == 0.05
    assert spec.search.choice == "fastest"


def test_paths_start_at_the_folder_of_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder / "hf")
    (folder / "model.yaml").write_text("source: hf\noutput: ../out\nevaluation: {text: [text.txt]}\n")
    spec = load_spec(Path("../model.yaml"))
    assert spec.source == folder / "hf" and spec.name == "hf"
    assert spec.output == folder.parent / "out"
    assert spec.evaluation.text == (folder / "text.txt",)


def test_units(folder: Path) -> None:
    spec = load(
        folder,
        "source: hf\ngate: {max_perplexity_increase: 1.5%, min_top1_agreement: 0.9}\nsearch: {timeout: 1h2m3s}\n",
    )
    assert spec.gate.max_perplexity_increase == pytest.approx(0.015)
    assert spec.gate.min_top1_agreement == 0.9
    assert spec.gate.max_kl is None
    assert spec.search.timeout_s == 3723


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("8m", 480),
        ("1h30m", 5400),
        ("0.5s", 0.5),
        ("8", 8),
        ("8.5", 8.5),
        ("90", 90),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["1%", "0.01", "1 %", "1.0%"])
def test_fractions_as_their_message_gives_them(folder: Path, text: str) -> None:
    for quoted in (text, f"'{text}'"):
        assert load(folder, f"source: hf\ngate: {{max_perplexity_increase: {quoted}}}\n").gate.max_perplexity_increase == 0.01


@pytest.mark.parametrize("text", ["", "m", "nan", "1e3", "8 m", "1m1h", "-3s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "line", "fault"),
    [
        ("sourc: hf\n", 1, "did you mean 'source'"),
        ("source: hf\nsearch:\n  trails: 3\n", 3, "did you mean 'trials'"),
        ("source: hf\nsearch:\n  time_out: 3\n", 3, "did you mean 'timeout'"),
        ("name: x\n", 1, "source: this key is required"),
        ("source: absent\n", 1, "must be a path that exists"),
        ("source: a-b/C-1.5\n", 1, "hf download a-b/C-1.5 --local-dir models/C-1.5"),
        ("source: a/b:Q4_0\n", 1, "not fetched: if a/b is one"),
        ("source: a/b@main\n", 1, "not fetched: if a/b is one"),
        ("source: https://huggingface.co/a/b/tree/main\n", 1, "not fetched: if a/b is one"),
        ("source: hf://a/b\n", 1, "not fetched: if a/b is one"),
        ("source: empty\n", 1, "config.json"),
        ("source: hf\ntarget: h900\n", 2, "a100, b200, cpu"),
        ("source: hf\nseed: 1.0\n", 2, "valid integer"),
        ("source: hf\nseed: -1\n", 2, "greater than or equal to 0"),
        ("source: hf\nname: a b\n", 2, "name"),
        ("source: hf\ngate: {}\n", 2, "must set a limit"),
        ("source: hf\ngate: {max_kl: 0}\n", 2, "greater than 0"),
        ("source: hf\ngate: {max_kl: '0.1'}\n", 2, "valid number"),
        ("source: hf\ngate: {max_perplexity_increase: 1 percent}\n", 2, "percentage such as 1%"),
        ("source: hf\ngate: {min_top1_agreement: 110%}\n", 2, "less than or equal to 1"),
        ("source: hf\nsearch: {timeout: soon}\n", 2, "duration such as"),
        ("source: hf\nsearch: {timeout: 0s}\n", 2, "greater than 0"),
        ("source: hf\nsearch: {timeout: 0}\n", 2, "greater than 0"),
        ("source: hf\nsearch: {timeout: 1e999}\n", 2, "finite"),
        ("source: hf\ngate: {max_kl: 1e999}\n", 2, "finite"),
        ("source: hf\nsearch: {storage: ''}\n", 2, "at least 1 character"),
        ("source: hf\nworkload:\n  ttft_ms: 300\n", 3, "ttft_ms: the search does not support .* got 300; remove the key"),
        ("source: hf\ngeneration: {temprature: 0.2}\n", 2, "did you mean 'temperature'"),
        ("source: hf\ngeneration: {temperature: -1}\n", 2, "temperature must be at least 0, got -1"),
        ("source: hf\ngeneration: {top_p: 1.5}\n", 2, "top_p must be above 0 and at most 1, got 1.5"),
        ("source: hf\nanswers: {tools: hermit}\n", 2, "a tool format must be one of"),
        ("source: hf\nanswers: {reasoning: thinks}\n", 2, "a reasoning format must be one of"),
        ("source: hf\ngeneration: {max_new_tokens: 0}\n", 2, "greater than 0"),
        ("source: random\nconfig: hf/config.json\ngate: {max_kl: 0.1}\n", 1, "remove gate"),
        ("source: random\nconfig: hf/config.json\nseed: 3\n", 1, "remove seed"),
        ("source: hf\nsearch: {choice: fast}\n", 2, "did you mean 'fastest'"),
        ("source: hf\nevaluation:\n  text: [text.txt, nothing.txt]\n", 3, "must be a path that exists"),
        ("source: hf\nevaluation:\n  num_sequences: 3\n", 3, "greater than or equal to 4"),
        ("source: hf\nevaluation: {max_sequences: 0}\n", 2, "greater than 0"),
        ("source: hf\nevaluation: {max_sequences: 31}\n", 2, "max_sequences must be at least num_sequences, 32, got 31"),
        ("source: hf\nworkload: {concurrency: 1, arrival_rate_rps: 2.0}\n", 2, "concurrency and arrival_rate_rps"),
        ("source: hf\nworkload: {concurrency: null}\n", 2, "got none"),
        ("source: hf\nworkload: {trace: text.txt, prompt_tokens: 3}\n", 2, "a trace has its own lengths"),
        ("source: hf\nquantization: {method: gptqq}\n", 2, "'rtn' or 'gptq'"),
        (
            "source: random\nconfig: hf/config.json\nquantization: {transform: awq}\n",
            1,
            "remove quantization",
        ),
        ("source: hf\nquantization: {transform: hadamard}\n", 2, "'rotation', 'awq' or 'smoothquant'"),
        ("source: hf\nquantization: {transform: [awq, rotation]}\n", 2, "rotation and then one of the others"),
        ("source: hf\nquantization: {transform: [awq, smoothquant]}\n", 2, "rotation and then one of the others"),
        ("source: hf\nquantization: {transform: rotation, calibration: {num_sequences: 8}}\n", 2, "remove calibration"),
        ("source: hf\nquantization: {calibration: {num_sequences: 8}}\n", 2, "rtn without clip uses only the weights"),
        (
            "source: hf\nevaluation: {text: [text.txt]}\nquantization: {method: gptq, calibration: {text: [text.txt]}}\n",
            1,
            "calibration text must not be evaluation text",
        ),
    ],
)
def test_a_fault_is_named_by_file_and_line(folder: Path, text: str, line: int, fault: str) -> None:
    with pytest.raises(LocatedError, match=fault) as caught:
        load(folder, text)
    assert str(caught.value).startswith(f"{folder / 'model.yaml'}:{line}: ")


BASE = "source: hf\nevaluation: {text: [text.txt]}\n"


@pytest.mark.parametrize(
    "text",
    [
        BASE + "name: other\n",
        BASE + "output: elsewhere\n",
        BASE + "search: {trials: 7, timeout: 1m, choice: smallest, storage: 'sqlite:///x.db'}\n",
        BASE + "workload: {concurrency: 1}\n",
        BASE + "generation: {temperature: 0.2}\n",
    ],
)
def test_the_digest_ignores_what_changes_no_measurement(folder: Path, text: str) -> None:
    assert load(folder, text).digest(SOURCES) == load(folder, BASE).digest(SOURCES)


@pytest.mark.parametrize(
    "text",
    [
        BASE + "seed: 1\n",
        BASE + "target: h100\n",
        BASE + "gate: {max_kl: 0.01}\n",
        BASE + "workload: {prompt_tokens: 8}\n",
        BASE + "search: {space: text.txt}\n",
        BASE + "quantization: {clip: true}\n",
        BASE + "quantization: {method: gptq}\n",
        BASE + "quantization: {transform: awq}\n",
        BASE + "quantization: {transform: rotation}\n",
        "source: hf\n",
    ],
)
def test_the_digest_changes_with_what_matters(folder: Path, text: str) -> None:
    assert load(folder, text).digest(SOURCES) != load(folder, BASE).digest(SOURCES)


def test_the_digest_follows_content_and_not_place(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    before = load(folder, BASE).digest(SOURCES)
    moved = folder.rename(tmp_path_factory.mktemp("moved") / "here")
    assert load_spec(moved / "model.yaml").digest(SOURCES) == before
    assert load_spec(moved / "model.yaml").digest({"other": 64 * "1"}) != before
    (moved / "text.txt").write_text("other words")
    assert load_spec(moved / "model.yaml").digest(SOURCES) != before


def test_the_example_is_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "examples").mkdir()
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf").touch()
    text = (ROOT / "examples" / "smollm2.yaml").read_text(encoding="utf-8")
    spec: Any = load(tmp_path / "examples", text)
    assert spec.output == tmp_path / "bundles" / "smollm2-cpu"
    assert spec.name == "smollm2"


def test_sets_by_path_and_format(folder: Path) -> None:
    (folder / "gsm8k.jsonl").touch()
    spec = load(
        folder,
        "source: tiny model.gguf\nevaluation:\n  sets:\n"
        "    - {path: gsm8k.jsonl, format: gsm8k, max_items: 100, margin: 2%, num_fewshot: 5, chat: true}\n"
        "    - {format: retrieval, context_tokens: [512, 4096]}\n    - {format: chat_template, name: template}\n",
    )
    gsm8k, retrieval, template = spec.evaluation.sets
    assert (gsm8k.name, gsm8k.path, gsm8k.max_items, gsm8k.margin) == ("gsm8k", folder / "gsm8k.jsonl", 100, 0.02)
    assert (retrieval.name, retrieval.context_tokens, template.name) == ("retrieval", (512, 4096), "template")
    bare = load(folder, "source: tiny model.gguf\n")
    assert spec.digest(SOURCES) == bare.digest(SOURCES), "sets decide at the end, and another one searches nothing again"


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ("{format: gsm8k}", "a set of format gsm8k needs path"),
        ("{format: chat_template, margin: 1%}", "a set of format chat_template takes .*; got margin"),
        ("{format: humaneval, path: text.txt, num_fewshot: 2}", "format humaneval takes .*; got num_fewshot"),
        ("{format: mmlu, path: text.txt}", "multiple_choice"),
        ("{format: retrieval, margin: 0}", "greater than 0"),
        ("{format: retrieval}, {format: retrieval}", "different names, got 'retrieval' twice"),
        ("{format: text, path: absent.txt}", "must be a path that exists"),
    ],
)
def test_a_set_that_cannot_be(folder: Path, sets: str, message: str) -> None:
    with pytest.raises(LocatedError, match=message):
        load(folder, f"source: tiny model.gguf\nevaluation: {{sets: [{sets}]}}\n")
