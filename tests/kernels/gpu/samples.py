"""The sample kernels as launches, compiled and launched by Triton itself against the stand-in driver, once for all tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from kernels import registry
from kernels.gpu.arguments import Memory
from kernels.gpu.binary import BinaryMetadata
from kernels.gpu.frozen import FrozenKernel, FrozenKernels
from kernels.gpu.kernel_source import KernelSource
from kernels.gpu.launch import F32, I32, I64, Descriptor, Launch, Ptr, TensorMeta

_FAKE_SOURCES = {"libcuda.so.1": "cuda.c", "libamdhip64.so": "hip.c"}
STREAM = 0x5EED
#: Where Triton's allocator finds scratch: see sample_kernels.py.
SCRATCH = 0x7A5ED0080000 + 128

# Addresses that nothing else in a parameter looks like.
TENSORS = {
    "x": Memory(0x7A5ED0010000, TensorMeta.contiguous("bf16", 256)),
    "y": Memory(0x7A5ED0020000, TensorMeta.contiguous("bf16", 256)),
    "a": Memory(0x7A5ED0030000, TensorMeta.contiguous("bf16", 640, 512)),
    "b": Memory(0x7A5ED0040000, TensorMeta("f16", (96, 256), (264, 1))),
    "codes": Memory(0x7A5ED0050000, TensorMeta.contiguous("e4m3", 128, 128)),
    "bias": Memory(0x7A5ED0060000, TensorMeta.contiguous("f32", 1)),
    "f": Memory(0x7A5ED0070000, TensorMeta.contiguous("f32", 64, 64)),
}


def _descriptors(a: Descriptor, b: Descriptor, num_k: int) -> Launch:
    (m, k), (n, _) = a.block_shape, b.block_shape
    arguments = {"a": a, "b": b, "out": Ptr("f"), "bias": Ptr("bias"), "shift": I64(-3 << 40), "scale": F32(0.1)}
    return Launch("sample", "descriptors", (10, 2, 1), arguments, {"M": m, "N": n, "K": k, "NUM_K": num_k}, num_warps=4)


LAUNCHES = (
    Launch(
        "sample",
        "scalars",
        (3, 5, 7),
        {"x": Ptr("x"), "out": Ptr("y"), "scale": F32(1 / 3), "count": I32(-100), "offset": I64(1 << 40)},
        {"absent": None, "BLOCK": 128},
        num_warps=2,
    ),
    # A block that the swizzle cuts in two, over 128 KiB; one that is a view of a wider buffer, below.
    _descriptors(Descriptor("a", (640, 512), (512, 1), (64, 128)), Descriptor("a", (32, 128), (512, 1), (32, 128)), num_k=4),
    _descriptors(Descriptor("b", (96, 200), (264, 1), (64, 32)), Descriptor("b", (95, 199), (264, 1), (32, 32)), num_k=2),
    _descriptors(
        Descriptor("codes", (128, 128), (128, 1), (64, 64)), Descriptor("codes", (64, 128), (128, 1), (64, 64)), num_k=2
    ),
    Launch("sample", "scratch", (2, 3, 1), {"x": Ptr("x"), "out": Ptr("y"), "rows": I32(4)}, {"M": 8, "N": 64}),
)


@dataclass(frozen=True)
class Sample:
    """A launch, its kernel, cuobjdump's (offset, size) of every parameter, and the driver's log of Triton's launch."""

    launch: Launch
    kernel: FrozenKernel
    parameters: list[tuple[int, int]]
    triton_launch: str


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="coldforge-samples-")


@cache
def fake_driver(name: str = "libcuda.so.1") -> Path:
    """The stand-in for a driver library, built: a file of that name."""
    library, source = Path(_folder().name) / name, Path(__file__).parent / "fake_driver" / _FAKE_SOURCES[name]
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", str(source), "-o", str(library)], check=True)
    return library


@cache
def compiled(arch: str) -> list[Sample]:
    """Every launch through Triton's compiler and launcher."""
    folder = Path(_folder().name) / arch
    folder.mkdir()
    library, launches = fake_driver(), LAUNCHES
    sources = [KernelSource.of(launch, {name: of.meta for name, of in TENSORS.items()}, arch) for launch in launches]
    jobs = [_job(source, launch) for source, launch in zip(sources, launches, strict=True)]
    log = folder / "triton.log"
    (folder / "jobs.json").write_text(json.dumps(jobs))
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"} | {
        "LD_LIBRARY_PATH": str(library.parent),
        "TRITON_LIBCUDA_PATH": str(library.parent),
        # Else Triton asks torch, which sees no device, whether there is one.
        "TRITON_DEFAULT_BACKEND": "nvidia",
        "TRITON_CACHE_DIR": str(folder / "cache"),
        "FAKE_CUDA_LOG": str(log),
        "FAKE_CUDA_CAPABILITY": arch.removeprefix("sm_"),
    }
    command = [sys.executable, "-m", "tests.kernels.gpu.sample_kernels", str(folder / "jobs.json"), str(folder)]
    subprocess.run(command, check=True, env=environment, cwd=registry.ROOT.parent)
    lines = [line for line in log.read_text().splitlines() if line.startswith("launch ")]
    samples = []
    for index, (launch, source) in enumerate(zip(launches, sources, strict=True)):
        metadata = BinaryMetadata.from_json(json.loads((folder / f"{index}.json").read_text()))
        kernel = FrozenKernel(source, metadata, (folder / f"{index}.image").read_bytes())
        parameters = [tuple(pair) for pair in json.loads((folder / f"{index}.parameters").read_text())]
        samples.append(Sample(launch, kernel, parameters, lines[index]))
    return samples


def table(arch: str) -> FrozenKernels:
    """The kernels of all samples."""
    return FrozenKernels(arch, (sample.kernel for sample in compiled(arch)))


def _job(source: KernelSource, launch: Launch) -> dict[str, object]:
    arguments = {}
    for name, argument in launch.arguments.items():
        if isinstance(argument, Ptr):
            arguments[name] = TENSORS[argument.tensor].address
        elif isinstance(argument, Descriptor):
            of = TENSORS[argument.tensor]
            itemsize = of.meta.nbytes // (of.meta.shape[0] * of.meta.shape[1])
            arguments[name] = {"address": of.address, "itemsize": itemsize} | {
                field: getattr(argument, field) for field in ("shape", "strides", "block_shape")
            }
        else:
            arguments[name] = argument.value
    return {
        "function": launch.function,
        "arch": source.arch,
        "types": dict(source.signature),
        "constants": dict(launch.constants),
        "num_warps": launch.num_warps,
        "arguments": arguments,
        "grid": launch.grid,
        "stream": STREAM,
    }
