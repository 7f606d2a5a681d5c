"""NVIDIA's binary tools, as the Triton wheel carries them. Triton itself is not imported."""

from __future__ import annotations

import subprocess
import tempfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path


class ToolchainMissing(Exception):
    """The tools that read machine code are not here."""


class ToolFailed(Exception):
    """A tool refused its input; the message has what it said."""


def disassemble_cubin(cubin: bytes) -> str:
    """SASS and resource usage of a cubin, as `cuobjdump -sass -res-usage` prints them.

    Raises ToolchainMissing, and ToolFailed if `cubin` is not one.
    """
    with tempfile.TemporaryDirectory(prefix="coldforge-sass-") as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        command = [str(nvidia_tool("cuobjdump")), "-sass", "-res-usage", str(path)]
        # cuobjdump runs the nvdisasm that lies beside it.
        outcome = subprocess.run(command, capture_output=True, text=True, check=False)
    if outcome.returncode or "Function" not in outcome.stdout:
        said = (outcome.stderr or outcome.stdout).strip().replace(str(path), "the cubin")
        raise ToolFailed(f"cuobjdump reads cubins; of these {len(cubin)} bytes it said: {said or 'nothing'}")
    return outcome.stdout


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
