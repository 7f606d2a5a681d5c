"""Finding NVIDIA's tools, and what is said where they are missing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from kernels.compile import toolchain
from kernels.compile.toolchain import ToolchainMissing, ToolFailed, disassemble, nvidia_tool, resource_usage


@pytest.fixture(autouse=True)
def nothing_remembered() -> Iterator[None]:
    nvidia_tool.cache_clear()
    yield
    nvidia_tool.cache_clear()


def test_without_triton_there_are_no_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "find_spec", lambda name: None)
    with pytest.raises(ToolchainMissing, match=r"cuobjdump .* Triton is not installed; pip install"):
        resource_usage(b"")


def test_a_wheel_may_come_without_tools(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spec = ModuleSpec("triton", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(toolchain, "find_spec", lambda name: spec)
    with pytest.raises(ToolchainMissing, match="Triton is installed without it"):
        nvidia_tool("nvdisasm")


def test_a_tools_refusal_is_given_in_its_words() -> None:
    pytest.importorskip("triton")
    with pytest.raises(ToolFailed, match=r"nvdisasm -b SM13 cannot read these 5 bytes; it said: .*SM13"):
        disassemble(b"hello", "sm_13")


def test_records_are_read_without_importing_triton() -> None:
    program = "import sys, kernels.compile.static_record; print('triton' in sys.modules, 'torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "False"]
