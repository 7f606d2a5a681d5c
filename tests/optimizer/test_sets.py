"""Sets of items in the whole run: what the bundle says of them, and what stops a bundle."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from artifacts.manifest import Deployment
from artifacts.precision import Scheme
from artifacts.reader import open_bundle, verify_bundle
from artifacts.writer import write_bundle
from kernels.cpu.host import host
from optimizer.evaluation import Gate, open_set
from optimizer.importers import open_source
from optimizer.measure.workbench import CpuWorkbench
from optimizer.records.progress import Reporter
from optimizer.search.accuracy import Judge
from optimizer.search.items import source_prompts, subject_on
from optimizer.spec import SetSpec
from optimizer.weights.quantized_store import QuantizedStore
from runtime.generation_config import eos_token_ids
from runtime.loading import load
from tests.judge_bundle import judge_bundle
from tests.optimizer.conftest import MakeProject, Project


def write_choices(path: Path, num_items: int) -> None:
    items = (
        {"question": f"{i} or {i + 1}?", "choices": [f"{i}", f"number {i + 1}"], "answer": i % 2} for i in range(num_items)
    )
    path.write_text("".join(json.dumps(item) + "\n" for item in items))


def test_a_bundle_says_how_both_models_did_on_each_set(project: MakeProject, tmp_path: Path) -> None:
    write_choices(tmp_path / "pick.jsonl", 24)
    (tmp_path / "prose.txt").write_text("the quick brown fox jumps over the lazy dog " * 12)
    sets = [
        {"path": "pick.jsonl", "format": "multiple_choice", "margin": "40%"},
        {"format": "chat_template"},
        {"format": "retrieval", "context_tokens": [200], "max_items": 4, "margin": "60%"},
        {"path": "prose.txt", "format": "text", "margin": "20%"},
    ]
    spec = {"num_sequences": 4, "tokens_per_sequence": 32, "sets": sets}
    made = project(evaluation=spec, schemes=["int8"], search={"trials": 1})
    result = made.optimize()
    assert result.exit_code == 0, result.output

    verify_bundle(made.bundle)
    record = json.loads((made.bundle / "evaluation.json").read_text())
    assert record["passed"] and set(record["verdicts"]) == {"sampled", "prose", "pick", "chat_template", "retrieval"}
    assert any("must be at most 0.2" in check for check in record["verdicts"]["prose"]["checks"])
    pick = record["item_sets"]["pick"]
    assert (pick["format"], pick["metric"], pick["num_items"], pick["outcome"]) == ("multiple_choice", "acc_norm", 24, "pass")
    lines = [json.loads(line) for line in (made.bundle / "evaluation/pick.jsonl").read_text().splitlines()]
    for metric, scores in pick["scores"].items():
        for model in ("baseline", "candidate"):
            assert scores[model] == pytest.approx(sum(line[model]["scores"][metric] for line in lines) / 24)
    page = (made.bundle / "report.html").read_text()
    assert "Evaluation sets" in page and "acc_bytes" in page

    # The loaded bundle answers as the proof recorded, and asking again asks nothing.
    assert load(made.bundle).engine.max_model_len == 256
    before = {path: path.read_bytes() for path in made.bundle.rglob("*") if path.is_file()}
    assert made.optimize().exit_code == 0
    assert {path: path.read_bytes() for path in made.bundle.rglob("*") if path.is_file()} == before

    # With a margin that so few items cannot show, the same study gives no bundle, and says what to do.
    description = json.loads(made.spec_path.read_text())
    description["evaluation"]["sets"] = [{"path": "pick.jsonl", "format": "multiple_choice", "max_items": 12}]
    made.spec_path.write_text(json.dumps(description))
    refused = made.optimize()
    assert refused.exit_code == 3, refused.output
    assert "set pick: 12 items cannot show a margin of 2.00%" in refused.output
    assert "came closest on the sets of items" in refused.output and "inconclusive" in refused.output
    assert {path: path.read_bytes() for path in made.bundle.rglob("*") if path.is_file()} == before


def test_a_set_that_cannot_be_read_is_said_before_anything_is_measured(project: MakeProject, tmp_path: Path) -> None:
    (tmp_path / "cut.jsonl").write_text('{"question": "1 or 2?", "choices": ["1", "2"], "answer": 0}\n{"question": "3 o')
    spec = {"num_sequences": 4, "tokens_per_sequence": 32, "sets": [{"path": "cut.jsonl", "format": "multiple_choice"}]}
    result = project(evaluation=spec).optimize()
    assert result.exit_code == 1
    assert "cut.jsonl:2: must be one JSON object" in result.output and "sensitivity" not in result.output


def test_the_gate_on_a_bundle_itself(finished: Project, tmp_path: Path) -> None:
    """The bundle as made passes; the same with another template, or other weights, does not."""
    source = open_source(finished.folder / "tiny")
    store = QuantizedStore(source, tmp_path / "store")
    workbench = CpuWorkbench(source.architecture, store, "fp32", 16, None, 1)
    plan = dict.fromkeys(source.architecture.linear_shapes(), Scheme("fp32"))
    prompts = source_prompts(source)
    texts = {"text": [[0, *range(20 + i, 50 + i)] for i in range(4)]}
    judge = Judge.make(workbench, plan, texts, tmp_path / "baseline", "tiny", 0, Reporter())
    sets = [open_set(SetSpec(format="chat_template"), prompts, 0)]
    baseline = subject_on(workbench, plan, prompts, eos_token_ids(source.generation_config))

    def outcomes(bundle: Path, max_kl: float = 0.5) -> dict[str, str]:
        verdicts = judge_bundle(bundle, Gate(max_kl=max_kl), judge, sets, baseline)
        return {name: verdict.outcome for name, verdict in verdicts.items()}

    assert outcomes(finished.bundle) == {"text": "pass", "chat_template": "pass"}
    assert outcomes(finished.bundle, max_kl=1e-9) == {"text": "fail"}

    manifest = verify_bundle(finished.bundle)
    files: dict[str, bytes | Path] = {
        name: finished.bundle / name for name in manifest.files if not name.startswith("weights/")
    }
    files["chat_template.jinja"] = b"{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
    deployment = Deployment.model_validate(manifest.model_dump(include=set(Deployment.model_fields)))
    tensors = open_bundle(finished.bundle, machine=host().machine, cpu_flags=host().flags).tensors
    write_bundle(tmp_path / "wrong template", deployment, tensors, files)
    assert outcomes(tmp_path / "wrong template") == {"text": "pass", "chat_template": "fail"}
