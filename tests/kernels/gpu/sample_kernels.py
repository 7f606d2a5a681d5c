"""Kernels whose arguments are of every kind; and, run as a program, Triton's own compiler and launcher over them.

`python -m tests.kernels.gpu.sample_kernels JOBS FOLDER` reads a list of jobs from the file JOBS. Of job i it writes the cubin,
FOLDER/i.image; its metadata as kernels/compile/worker.py does, FOLDER/i.json; and the (offset, size) of each parameter by
cuobjdump, FOLDER/i.parameters. It launches the kernel the way Triton does. The stand-in must be found as libcuda.so.1.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.tools.tensor_descriptor import TensorDescriptor


@triton.jit
def scalars(x, absent, scale, count, offset, out, BLOCK: tl.constexpr):
    columns = tl.arange(0, BLOCK)
    values = tl.load(x + columns + offset, mask=columns < count, other=0.0).to(tl.float32)
    if absent is not None:
        values += tl.load(absent + columns)
    tl.store(out + columns, (values * scale).to(tl.bfloat16))


@triton.jit
def descriptors(a, b, out, bias, shift, scale, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, NUM_K: tl.constexpr):
    total = tl.zeros((M, N), tl.float32)
    for k in range(NUM_K):
        total += tl.dot(a.load([tl.program_id(0) * M, k * K]), b.load([tl.program_id(1) * N, k * K]).T)
    rows = tl.arange(0, M)[:, None] * N + tl.arange(0, N)[None, :]
    tl.store(out + rows + shift, total * scale + tl.load(bias))


@triton.jit
def scratch(x, out, rows, M: tl.constexpr, N: tl.constexpr):
    description = tl.make_tensor_descriptor(x, [rows, N], [N, 1], [M, N])
    tile = description.load([tl.program_id(0) * M, 0])
    index = tl.program_id(0) * M * N + tl.arange(0, M)[:, None] * N + tl.arange(0, N)[None, :]
    tl.store(out + index, tile)


KERNELS = {"scalars": scalars, "descriptors": descriptors, "scratch": scratch}


@dataclass(frozen=True)
class _Memory:
    """What Triton asks of a tensor."""

    address: int
    dtype: Any

    def data_ptr(self) -> int:
        return self.address


def main(jobs: Path, folder: Path) -> None:
    triton.set_allocator(lambda size, align, stream: 0x7A5ED0080000 + align)
    for index, job in enumerate(json.loads(jobs.read_text())):
        function = KERNELS[job["function"]]
        signature = {name: job["types"].get(name, "constexpr") for name in function.arg_names}
        aligned = {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(signature.values()) if kind.startswith("*")}
        source = ASTSource(function, signature, job["constants"], aligned)
        target = GPUTarget("cuda", int(job["arch"].removeprefix("sm_")), 32)
        compiled = triton.compile(source, target=target, options={"num_warps": job["num_warps"], "enable_fp_fusion": True})
        facts = compiled.metadata._asdict()
        image = folder / f"{index}.image"
        image.write_bytes(compiled.asm["cubin"])
        parameters = _parameters(image)
        (folder / f"{index}.parameters").write_text(json.dumps(parameters))
        os.environ["FAKE_CUDA_PARAMETERS"] = f"{facts['name']}:{','.join(str(size) for _, size in parameters)}"
        metadata = {
            "entry": facts["name"],
            "arch": job["arch"],
            "parameters": [[name, kind] for name, kind in signature.items() if kind != "constexpr"],
            "num_warps": facts["num_warps"],
            "shared_bytes": facts["shared"],
            "global_scratch_bytes": facts["global_scratch_size"],
            "global_scratch_align": facts["global_scratch_align"],
            "profile_scratch_bytes": facts["profile_scratch_size"],
            "tensordesc": facts["tensordesc_meta"] or [],
            "triton": triton.__version__,
        }
        (folder / f"{index}.json").write_text(json.dumps(metadata))
        arguments = [_argument(job["arguments"].get(name)) for name in function.arg_names]
        compiled[tuple(job["grid"])](*arguments, stream=job["stream"])


def _parameters(image: Path) -> list[tuple[int, int]]:
    elf = subprocess.run([triton.knobs.nvidia.cuobjdump.path, "-elf", image], check=True, capture_output=True, text=True).stdout
    found = re.findall(r"Ordinal : 0x(\w+)\s+Offset  : 0x(\w+)\s+Size    : 0x(\w+)", elf)
    of = {int(ordinal, 16): (int(offset, 16), int(size, 16)) for ordinal, offset, size in found}
    return [of[ordinal] for ordinal in range(len(of))]


def _argument(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    dtype = SimpleNamespace(itemsize=value["itemsize"], is_floating_point=True)
    return TensorDescriptor(_Memory(value["address"], dtype), value["shape"], value["strides"], value["block_shape"])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
