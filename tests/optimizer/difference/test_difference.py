"""`coldforge diff`: everything that differs is said, and nothing else; in the terminal and on a page."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from artifacts.manifest import Deployment, Limits, Precision
from optimizer.cli import coldforge
from optimizer.difference import Facts, difference_of
from optimizer.difference.page import render_difference
from tests.artifacts.conftest import DEPLOYMENT, Parts
from tests.options import assert_listed


def evaluation(kl: float, ratio: float) -> bytes:
    record: dict[str, Any] = {
        "bundle": {"weight_bytes": int(1e8 / ratio)},
        "gate": {"max_kl": 0.05},
        "sets": {"wikitext": {"kl": {"value": kl, "low": 0.9 * kl, "high": 1.1 * kl}}},
        "verdicts": {"wikitext": {"outcome": "passed", "checks": []}},
        "speed": {"decode": {"speedup": {"value": ratio, "low": ratio, "high": ratio}, "candidate_ms": 9.0, "measured": True}},
    }
    return json.dumps(record).encode()


def changed(deployment: Deployment) -> Deployment:
    groups = {**deployment.precision.groups, "embed": "bf16", "head": "int8"}
    del groups["head"]
    limits = {**deployment.serving.model_dump(), "num_threads": 1}
    precision = Precision(groups=groups, kv_cache="fp16")
    return deployment.model_copy(update={"precision": precision, "serving": Limits(**limits)})


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    parts, root = Parts(), tmp_path_factory.mktemp("pair")
    parts.but(files={**parts.files, "evaluation.json": evaluation(0.01, 2.0)}).write(root / "a")
    other = {**parts.files, "evaluation.json": evaluation(0.02, 2.5), "kernels/cpu.so": b"\x7fELF another", "new.txt": b"<b>"}
    parts.but(files=other, deployment=changed(DEPLOYMENT)).write(root / "b")
    return root / "a", root / "b"


def rows(left: Path, right: Path) -> dict[str, tuple[str, str, str]]:
    """By section and subject, those that differ."""
    found = difference_of(Facts.read(left), Facts.read(right))
    return {
        f"{section.title}: {row.subject}": (row.left, row.right, row.change)
        for section in found.sections
        for row in section.rows
        if row.left != row.right
    }


def test_all_that_differs_is_said_and_nothing_else(pair: tuple[Path, Path]) -> None:
    found = rows(*pair)
    code = {"Kernels: cpu: machine code", "Files: kernels/cpu.so"}
    assert {name for name, (left, right, _) in found.items() if name in code and left != right} == code
    assert {name: told for name, told in found.items() if name not in code and not name.startswith("Files: evaluation")} == {
        "Plan: embed": ("int8", "bf16", ""),
        "Limits: num_threads": ("2", "1", ""),
        "Accuracy: wikitext: kl": ("0.0100 (0.00900 to 0.0110)", "0.0200 (0.0180 to 0.0220)", ""),
        "Speed: decode": ("2.00 x (2.00 to 2.00)", "2.50 x (2.50 to 2.50)", ""),
        "Speed: weights": ("50.0 MB", "40.0 MB", "0.800 x"),
        "Model and device: KV cache": ("bf16", "fp16", ""),
        "Files: new.txt": ("none", found["Files: new.txt"][1], ""),
    }


def test_turned_around_it_says_the_same(pair: tuple[Path, Path]) -> None:
    there, back = rows(*pair), rows(*reversed(pair))
    assert {name: told[:2] for name, told in there.items()} == {name: told[1::-1] for name, told in back.items()}


def test_a_bundle_and_itself(pair: tuple[Path, Path]) -> None:
    assert rows(pair[0], pair[0]) == {}
    result = CliRunner().invoke(coldforge, ["diff", str(pair[0]), str(pair[0])])
    assert result.exit_code == 0 and "the same bundle, byte for byte" in result.output


def test_layers_that_changed_alike_are_one_row(pair: tuple[Path, Path]) -> None:
    from optimizer.difference.compare import _plan

    left = {"embed": "int8"} | {f"layers.{i}.{kind}": "int8" for i in range(8) for kind in ("qkv", "o")}
    right = left | {f"layers.{i}.qkv": "int4" for i in (0, 1, 2, 5)} | {"layers.4.o": "bf16"}
    section = _plan(left, right)
    assert [(row.subject, row.right) for row in section.rows] == [
        ("layers.0-2.qkv", "int4"),
        ("layers.5.qkv", "int4"),
        ("layers.4.o", "bf16"),
    ]
    assert section.num_same == len(left) - 5


def test_the_command_and_its_page(pair: tuple[Path, Path], tmp_path: Path) -> None:
    assert_listed("diff", {"left", "right", "--html"})
    line = ["diff", str(pair[0]), str(pair[1])]
    told = CliRunner().invoke(coldforge, line, env={"COLUMNS": "200"})
    assert told.exit_code == 0 and "num_threads" in told.output and "wrote" not in told.output
    page = tmp_path / "diff.html"
    assert CliRunner().invoke(coldforge, [*line, "--html", str(page)]).exit_code == 0
    text = page.read_text()
    assert text == render_difference(difference_of(*(Facts.read(folder) for folder in pair)))
    assert "int8" in text and html.escape(str(pair[1])) in text and "<script" not in text and "http" not in text


@pytest.mark.parametrize("evaluation", [b"{", b"[]\n", b"{}\n"])
def test_a_bundle_with_little_to_say(tmp_path: Path, pair: tuple[Path, Path], evaluation: bytes) -> None:
    parts = Parts()
    parts.but(files={**parts.files, "evaluation.json": evaluation}).write(tmp_path / "c")
    result = CliRunner().invoke(coldforge, ["diff", str(pair[0]), str(tmp_path / "c")])
    if evaluation == b"{":
        assert result.exit_code == 1 and "evaluation.json must be JSON" in result.output
    else:
        assert result.exit_code == 0 and "2.00 x" in result.output
