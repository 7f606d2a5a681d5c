"""NVIDIA's binary tools, as the Triton wheel carries them. Triton itself is not imported."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from kernels.refusal import Refusal


class ToolchainMissing(Refusal):
    """The tools that read machine code are not here."""


class ToolFailed(Exception):
    """A tool refused its input; the message has what it said."""


def resource_usage(cubin: bytes) -> str:
    """Registers, stack and shared memory, as `cuobjdump -res-usage` prints them. Takes 2 ms.

    Raises ToolchainMissing, and ToolFailed if `cubin` is not one.
    """
    return _output("cuobjdump", ["-res-usage"], cubin)


def disassemble(code: bytes, arch: str) -> str:
    """The instructions `code` of an `sm_*`, as `nvdisasm` prints them: one a line, targets of branches as addresses.

    nvdisasm takes 0.3 s to start and 10 us for an instruction, so many kernels are better read at once. Raises as
    `resource_usage`.
    """
    number = arch.removeprefix("sm_")
    # From sm_90 on Triton compiles for the architecture-specific variant.
    return _output("nvdisasm", ["-b", f"SM{number}{'a' if int(number) >= 90 else ''}"], code)


def _output(tool: str, options: list[str], data: bytes) -> str:
    with tempfile.TemporaryDirectory(prefix="coldforge-binary-") as folder:
        path = Path(folder) / "input"
        path.write_bytes(data)
        outcome = subprocess.run([str(nvidia_tool(tool)), *options, str(path)], capture_output=True, text=True, check=False)
    if outcome.returncode:
        said = (outcome.stderr or outcome.stdout).strip().replace(str(path), "the input")
        raise ToolFailed(f"{tool} {' '.join(options)} cannot read these {len(data)} bytes; it said: {said or 'nothing'}")
    return outcome.stdout


def assembler() -> Path:
    """The ptxas for every architecture: $TRITON_PTXAS_PATH, or the one of CUDA 12 in the Triton wheel. ToolchainMissing.

    Left alone, Triton assembles for sm_90 and later with its other one, which from 3.7 on is of CUDA 13: no driver of CUDA 12
    loads what that makes, while drivers of CUDA 13 load what CUDA 12 made.
    """
    return Path(os.environ.get("TRITON_PTXAS_PATH") or nvidia_tool("ptxas"))


@cache
def assembler_version(path: Path) -> str:
    """What the ptxas at `path` calls itself, such as "12.9.86"; ToolFailed if it does not say."""
    outcome = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    if match := re.search(r"V([\d.]+)", outcome.stdout):
        return match[1]
    raise ToolFailed(f"ptxas must say its version; {path} said: {outcome.stdout or outcome.stderr or 'nothing'}")


@cache
def nvidia_tool(name: str) -> Path:
    """The path of `name` (cuobjdump, nvdisasm, ptxas) in the Triton wheel; ToolchainMissing if there is none."""
    spec = find_spec("triton")
    for location in (spec.submodule_search_locations or ()) if spec else ():
        tool = Path(location) / "backends" / "nvidia" / "bin" / name
        if tool.is_file():
            return tool
    where = "Triton is installed without it" if spec else "Triton is not installed"
    raise ToolchainMissing(
        f"machine code is read with the {name} of the Triton wheel, and {where}; pip install 'coldforge[gpu]'"
    )
