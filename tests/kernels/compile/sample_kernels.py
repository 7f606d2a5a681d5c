"""Small kernels whose machine code is known in outline, and the program that compiles them for GPUs that are not here.

`python sample_kernels.py FOLDER` leaves NAME.ARCH (cubin or amdgcn), NAME.ARCH.ptx and NAME.ARCH.json for every sample. In a
process of its own, because Triton compiles only where it was not imported for interpretation.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit
def copy(source, target, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(target + at, tl.load(source + at))


@triton.jit
def exponential(source, target, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(target + at, tl.exp2(tl.load(source + at)))


@triton.jit
def matmul(a, b, c, n, k, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):
    """C = A B^T, all row-major."""
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    inner = tl.arange(0, BLOCK_K)
    a_at = a + rows[:, None] * k + inner[None, :]
    b_at = b + columns[None, :] * k + inner[:, None]
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for _ in range(0, k, BLOCK_K):
        total = tl.dot(tl.load(a_at), tl.load(b_at), total)
        a_at += BLOCK_K
        b_at += BLOCK_K
    tl.store(c + rows[:, None] * n + columns[None, :], total.to(tl.bfloat16))


@triton.jit
def persistent_matmul(a, b, c, m, n, k, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):
    """The same, of descriptors, with a loop over tiles around the loop over k."""
    tiles_n = tl.cdiv(n, BLOCK_N)
    for tile in range(tl.program_id(0), tl.cdiv(m, BLOCK_M) * tiles_n, tl.num_programs(0)):
        row = tile // tiles_n * BLOCK_M
        column = tile % tiles_n * BLOCK_N
        total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        for at in range(0, k, BLOCK_K):
            total = tl.dot(a.load([row, at]), b.load([column, at]).T, total)
        rows = row + tl.arange(0, BLOCK_M)
        columns = column + tl.arange(0, BLOCK_N)
        tl.store(c + rows[:, None] * n + columns[None, :], total.to(tl.bfloat16))


class Sample(NamedTuple):
    function: Any
    signature: dict[str, str]
    constants: dict[str, int]
    archs: tuple[str, ...]
    num_warps: int = 4
    maxnreg: int | None = None


_POINTERS = {"a": "*bf16", "b": "*bf16", "c": "*bf16", "n": "i32", "k": "i32"}
_TILES = {"a": "tensordesc<bf16[128, 64]>", "b": "tensordesc<bf16[128, 64]>", "c": "*bf16", "m": "i32", "n": "i32", "k": "i32"}
_LARGE = {"BLOCK_M": 64, "BLOCK_N": 128, "BLOCK_K": 64}
SAMPLES = {
    "copy": Sample(copy, {"source": "*fp32", "target": "*fp32"}, {"BLOCK": 1024}, ("sm_80",)),
    "exponential": Sample(exponential, {"source": "*fp32", "target": "*fp32"}, {"BLOCK": 1024}, ("sm_90",)),
    "matmul": Sample(matmul, _POINTERS, _LARGE, ("sm_80", "sm_90", "sm_100", "gfx942", "gfx950")),
    "small_matmul": Sample(matmul, _POINTERS, {"BLOCK_M": 16, "BLOCK_N": 64, "BLOCK_K": 128}, ("sm_90",)),
    "starved_matmul": Sample(matmul, _POINTERS, _LARGE, ("sm_80",), maxnreg=48),
    "persistent_matmul": Sample(
        persistent_matmul, _TILES, {"BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 64}, ("sm_90", "gfx942"), num_warps=8
    ),
}


def main(folder: Path) -> None:
    for name, sample in SAMPLES.items():
        aligned = {
            (index,): [["tt.divisibility", 16]]
            for index, kind in enumerate(sample.signature.values())
            if not kind.startswith("tensordesc")
        }
        signature = sample.signature | dict.fromkeys(sample.constants, "constexpr")
        for arch in sample.archs:
            amd = arch.startswith("gfx")
            target = GPUTarget("hip", arch, 64) if amd else GPUTarget("cuda", int(arch.removeprefix("sm_")), 32)
            kernel = triton.compile(
                ASTSource(sample.function, signature, sample.constants, aligned),
                target=target,
                options={
                    "num_warps": sample.num_warps,
                    "num_stages": 2 if amd else 3,
                    "enable_fp_fusion": True,
                    "maxnreg": sample.maxnreg,
                },
            )
            metadata = {"num_warps": kernel.metadata.num_warps, "shared_bytes": kernel.metadata.shared}
            binary = kernel.asm["amdgcn"].encode() if amd else kernel.asm["cubin"]
            (folder / f"{name}.{arch}").write_bytes(binary)
            (folder / f"{name}.{arch}.ptx").write_text(kernel.asm.get("ptx", ""), encoding="utf-8")
            (folder / f"{name}.{arch}.json").write_text(json.dumps(metadata), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
