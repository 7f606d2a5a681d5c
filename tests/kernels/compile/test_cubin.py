"""The code of a cubin, and what is not one."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from kernels.compile.cubin import machine_code
from kernels.compile.instructions import UnreadableCode
from kernels.compile.toolchain import nvidia_tool
from tests.kernels.compile.conftest import Compiled


def image(kernel: Compiled) -> bytes:
    assert isinstance(kernel.binary, bytes)
    return kernel.binary


@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_100"])
def test_code_is_what_cuobjdump_prints(arch: str, compiled: Callable[[str, str], Compiled], tmp_path: Path) -> None:
    """Word for word: the encodings beside its disassembly, two halves an instruction."""
    cubin = image(compiled("matmul", arch))
    (tmp_path / "kernel.cubin").write_bytes(cubin)
    command = [nvidia_tool("cuobjdump"), "-sass", tmp_path / "kernel.cubin"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    words = re.findall(r"/\* 0x([0-9a-f]{16}) \*/", printed)
    assert machine_code(cubin) == b"".join(int(word, 16).to_bytes(8, "little") for word in words)


def test_what_is_no_cubin_is_refused(compiled: Callable[[str, str], Compiled]) -> None:
    cubin = image(compiled("copy", "sm_80"))
    with pytest.raises(UnreadableCode, match=r"64-bit ELF file; these 64 bytes begin with b'\\x00"):
        machine_code(bytes(64))
    for length in (10, len(cubin) // 2):
        with pytest.raises(UnreadableCode, match="was it cut"):
            machine_code(cubin[:length])
    with pytest.raises(UnreadableCode, match="this cubin has 0"):
        machine_code(cubin.replace(b".text.", b".tekst"))
