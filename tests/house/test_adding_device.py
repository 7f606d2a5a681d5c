"""docs/adding.md, "A device": a toy's file is written, and the tables of instruction sets have the same rows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from kernels.compile.occupancy import MULTIPROCESSORS
from kernels.gpu.target import ARCHS
from optimizer.cli import optimize
from optimizer.cli.kernels import kernels
from optimizer.cost.gpu.facts import gpu_facts
from optimizer.spec import load_spec
from optimizer.targets import offered_schemes
from runtime.models import architecture
from search_spaces import space
from tests.house.recipes import files_of
from tests.house.test_words import ROOT

TOY = """
name: toy
title: Half an H100, for half the memory
kind: gpu
buildable: true
arch: sm_90
sources: {thin air: invented for a test}
peak_tflops:
  fp32: {value: 33, source: thin air}
  bf16: {value: 495, source: thin air}
  int8: {value: 990, source: thin air}
memory_bandwidth_gbps: {value: 1675, source: thin air}
memory_gb: {value: 40, source: thin air}
num_sms: {value: 66, source: thin air}
boost_clock_mhz: {value: 1830, source: thin air}
shared_memory_per_sm_kib: {value: 228, source: thin air}
shared_memory_per_block_kib: {value: 227, source: thin air}
registers_per_sm: {value: 65536, source: thin air}
"""

CONFIG = ROOT / "examples" / "llama-3.1-8b" / "config.json"
SHAPES = f"source: random\nconfig: {CONFIG}\n"
LLAMA = json.loads(CONFIG.read_text())


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Its file among those of the others."""
    folder = tmp_path / "search_spaces"
    shutil.copytree(ROOT / "search_spaces", folder, ignore=shutil.ignore_patterns("*.py"))
    (folder / "devices" / "toy.yaml").write_text(TOY)
    monkeypatch.setattr(space, "_ROOT", folder)
    return "toy"


def test_the_recipe_is_one_file_and_two_for_a_new_instruction_set() -> None:
    assert files_of("A device") == [
        "search_spaces/devices/NAME.yaml",
        "kernels/gpu/target.py",
        "kernels/compile/occupancy.py",
    ]
    assert ARCHS.keys() == MULTIPROCESSORS.keys()


def test_a_device_without_its_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.yaml").write_text(SHAPES)
    refused = CliRunner().invoke(optimize, [str(tmp_path / "model.yaml"), "--gpu", "toy"])
    assert refused.exit_code and "got 'toy'" in refused.output


def test_it_is_planned_for(toy: str, tmp_path: Path) -> None:
    assert toy in space.buildable_names()
    facts, h100 = (gpu_facts(space.device(name)) for name in (toy, "h100"))
    assert facts.num_sms == h100.num_sms / 2 and facts.max_warps_per_sm == h100.max_warps_per_sm
    (tmp_path / "model.yaml").write_text(f"{SHAPES}target: {toy}\n")
    spec = load_spec(tmp_path / "model.yaml")
    assert spec.devices == (toy,)
    assert offered_schemes(space.load_space(kind="gpu"), spec.devices, ["down"], architecture(LLAMA))["down"]


def test_kernels_are_compiled_for_it(toy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    arguments = ["inspect", "gather_rows", "--gpu", toy, "--tokens", "1", "--jobs", "1"]
    result = CliRunner().invoke(kernels, arguments)
    assert result.exit_code == 0 and "sm_90" in result.output, result.output
