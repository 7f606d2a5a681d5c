"""`optimize --gpu 8xh200`: a plan and a page, and no bundle; and counts that are none."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from artifacts.errors import DestinationError, PlanningOnlyError
from artifacts.plan_folder import write_plan
from artifacts.reader import read_manifest
from optimizer.cli import coldforge, optimize
from runtime.cli import serve
from tests.house.test_words import ROOT

CONFIG = json.loads((ROOT / "examples/deepseek-r1-671b/config.json").read_text())
#: the same model with less of everything
SMALL = {
    "num_hidden_layers": 2, "first_k_dense_replace": 1, "hidden_size": 256, "intermediate_size": 512, "vocab_size": 512,
    "num_attention_heads": 8, "num_key_value_heads": 8, "n_routed_experts": 16, "moe_intermediate_size": 128,
    "q_lora_rank": 128,
}  # fmt: skip
WORKLOAD = "workload: {prompt_tokens: 64, output_tokens: 64, concurrency: 8}\n"
SPACE = {"precision": {"groups": {kind: ["fp8", "bf16"] for kind in ("head", "qkv", "o", "gate_up", "down")}}}


def planned(folder: Path, target: str, more: str = WORKLOAD) -> Result:
    (folder / "config.json").write_text(json.dumps(CONFIG | SMALL))
    (folder / "plan.yaml").write_text(
        f"source: random\nname: small\nconfig: config.json\noutput: out\n{more}search: {{space: space.json}}\n"
    )
    (folder / "space.json").write_text(json.dumps(SPACE))
    return CliRunner().invoke(optimize, [str(folder / "plan.yaml"), "--gpu", target])


def test_a_plan_and_its_page(tmp_path: Path) -> None:
    result = planned(tmp_path, "4xh200")
    assert result.exit_code == 0, result.output
    assert "4 x NVIDIA H200" in result.output and "this is a plan and no bundle" in result.output.replace("\n", " ")
    files = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert files.keys() == {"plan.json", "report.html"}
    plan = json.loads(files["plan.json"])
    assert plan["num_devices"] == 4 and len({one["division"]["experts"] for one in plan["candidates"]}) == 2
    (chosen,) = (one for one in plan["candidates"] if one["title"] == plan["chosen"])
    assert chosen["ms_per_token"] == min(one["ms_per_token"] for one in plan["candidates"])
    memory, step = chosen["memory_per_device"], chosen["decode_step"]
    assert memory["weights"] > 0 and memory["kv_cache"] > 0 and memory["activations"] > 0 > memory["lacking"]
    assert step["ms"] == pytest.approx(step["compute_ms"] + sum(one["ms"] for one in step["exchanges"]))
    assert plan["links"]["link_latency_us"]["source"].startswith("NVIDIA NCCL")
    page = files["report.html"].decode()
    assert "Modelled, not measured" in page and plan["chosen"] in page and "<script" not in page
    planned(tmp_path, "4xh200")
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}, "the same bytes again"

    with pytest.raises(PlanningOnlyError, match="nothing here runs a model on more than one"):
        read_manifest(tmp_path / "out")
    for command, words in ((serve, []), (coldforge, ["inspect"]), (coldforge, ["verify"])):
        refused = CliRunner().invoke(command, [*words, str(tmp_path / "out")])
        assert refused.exit_code == 1 and "is a plan for several devices and no bundle" in refused.output


def test_a_plan_replaces_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(DestinationError, match=r"must hold a plan, and holds manifest\.json"):
        write_plan(tmp_path, b"{}", b"")


COUNTS = ["0xh200", "-1xh200", "1.5xh200", "xh200", "2000xh200", "8xcpu", "²xh200"]


@pytest.mark.parametrize("target", COUNTS)
def test_a_count_that_is_none(target: str, tmp_path: Path) -> None:
    expected = f"several devices are COUNTxGPU, such as 8xh200, with a whole count from 1 to 1024; got {target!r}"
    for result in (
        planned(tmp_path, target),
        CliRunner().invoke(coldforge, ["kernels", "inspect", "embedding", "--gpu", target]),
    ):
        assert result.exit_code == 1 and expected in result.output
    (tmp_path / "plan.yaml").write_text(f"source: random\nconfig: config.json\ntarget: {target}\n")
    result = CliRunner().invoke(optimize, [str(tmp_path / "plan.yaml")])
    assert result.exit_code == 1 and expected in result.output


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("8xh200,l40s", "several devices of one kind stand alone, got '8xh200,l40s'"),
        ("8xh3000", "a device is one of"),
        ("16xh200", "links of h200 join 8 devices, got 16"),
        ("8xmi300x", "needs link_gbps; mi300x does not state it"),
        ("3xh200", "small cannot be divided among 3 devices"),
    ],
)
def test_what_is_not_planned(target: str, message: str, tmp_path: Path) -> None:
    result = planned(tmp_path, target)
    assert result.exit_code == 1 and message in result.output and not (tmp_path / "out").exists()


def test_one_of_a_device_is_that_device(tmp_path: Path) -> None:
    result = planned(tmp_path, "1xh3000")
    assert result.exit_code == 1 and "a device is one of" in result.output


def test_a_plan_needs_a_concurrency(tmp_path: Path) -> None:
    result = planned(tmp_path, "4xh200", "workload: {arrival_rate_rps: 2}\n")
    assert result.exit_code == 1 and "give workload.concurrency" in result.output


def test_a_real_model_is_not_divided(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.yaml").write_text("source: .\nname: real\noutput: out\n")
    result = CliRunner().invoke(optimize, [str(tmp_path / "model.yaml"), "--gpu", "8xh200"])
    assert result.exit_code == 1 and "nothing here runs a model on several devices, got 8xh200" in result.output


def test_what_does_not_fit_says_how_many_would_do(tmp_path: Path) -> None:
    example = ROOT / "examples/deepseek-r1-671b.yaml"
    result = CliRunner().invoke(optimize, [str(example), "--gpu", "h200", "-o", str(tmp_path / "out")])
    assert result.exit_code == 1 and not (tmp_path / "out").exists()
    assert "fp8-block needs 625.6 GiB (625.6 of weights); 8 of them would hold the weights" in result.output
    assert "(source: random, --gpu 8xh200)" in result.output


@pytest.mark.slow
def test_the_example_is_planned_within_ten_minutes(tmp_path: Path) -> None:
    start = time.monotonic()
    result = CliRunner().invoke(optimize, [str(ROOT / "examples/deepseek-r1-671b.yaml"), "-o", str(tmp_path / "out")])
    assert result.exit_code == 0 and time.monotonic() - start < 600, result.output
    plan = json.loads((tmp_path / "out/plan.json").read_text())
    assert plan["chosen"].startswith("fp8-block")
    result = CliRunner().invoke(
        optimize, [str(ROOT / "examples/deepseek-r1-671b.yaml"), "--gpu", "4xh200", "-o", str(tmp_path / "four")]
    )
    assert result.exit_code == 1 and "8 of them would hold the weights" in result.output
