"""Kernels for GPUs that are not here: every architecture, kept results, failures as results, nothing lost to a kill."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from kernels import registry
from kernels.compile.cross_compile import Compiled, CrossCompiler, KernelCompileFailed
from kernels.gpu.kernel_source import KernelSource, kernel_sources
from kernels.gpu.launch import Problem, TensorMeta
from kernels.gpu.target import ARCHS, Target
from tests.kernels.gpu.compiling import compile_all


def rms_norm(arch: str, width: int = 4096) -> KernelSource:
    x = TensorMeta.contiguous("bf16", 4, 1, width)
    problem = Problem("gpu_rms_norm", {"x": x, "out": x, "weight": TensorMeta.contiguous("f32", width)}, {"eps": 1e-5})
    (source,) = kernel_sources(registry.plan_call(problem, Target.of(arch, 132)), problem, arch)
    return source


@pytest.mark.parametrize("arch", ARCHS)
def test_every_architecture_gets_a_binary_of_its_own(compiler: CrossCompiler, arch: str) -> None:
    (kernel,) = compile_all(compiler, [rms_norm(arch)])
    machine = int.from_bytes(kernel.image[18:20], "little")
    assert kernel.image.startswith(b"\x7fELF")
    assert machine == (190 if arch.startswith("sm") else 224), "EM_CUDA or EM_AMDGPU"
    if arch.startswith("gfx"):
        assert f'-{arch}"' in (kernel.folder / "amdgcn").read_text().splitlines()[0]


def test_parameters_are_those_of_the_kernel_in_its_own_order(compiler: CrossCompiler) -> None:
    (kernel,) = compile_all(compiler, [rms_norm("sm_90")])
    metadata = json.loads((kernel.folder / "metadata.json").read_text())
    assert metadata["parameters"] == [["x_ptr", "*bf16"], ["weight_ptr", "*fp32"], ["out_ptr", "*bf16"], ["eps", "fp32"]]


def test_the_same_kernel_is_the_same_to_the_byte_and_names_no_path(tmp_path: Path) -> None:
    images = []
    for folder in ("one", "two"):
        with CrossCompiler(tmp_path / folder, jobs=1) as compiler:
            (kernel,) = compile_all(compiler, [rms_norm("sm_90")])
            images.append(kernel.image)
    assert images[0] == images[1]
    assert str(registry.ROOT).encode() not in images[0]


def test_what_was_compiled_is_read_again_and_a_cache_may_move(tmp_path: Path) -> None:
    with CrossCompiler(tmp_path / "cache", jobs=1) as compiler:
        compile_all(compiler, [rms_norm("sm_90")])
    shutil.move(tmp_path / "cache", tmp_path / "moved")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "moved").rglob("image")}
    with CrossCompiler(tmp_path / "moved", jobs=1) as compiler:
        compile_all(compiler, [rms_norm("sm_90")])
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "moved").rglob("image")} == before


def test_a_kernel_that_does_not_compile_says_which_and_why_and_spares_the_others(compiler: CrossCompiler) -> None:
    bad = replace(rms_norm("sm_90"), constants=(("BLOCK_D", 4096),))
    compiled = compiler.compile([bad, rms_norm("sm_90")])
    failure = compiled[bad.identity]
    assert isinstance(failure, KernelCompileFailed)
    assert "rms_norm.rms_norm_kernel" in str(failure) and "sm_90" in str(failure) and "lacks" in str(failure)
    assert isinstance(compiled[rms_norm("sm_90").identity], Compiled)


def test_a_compiler_that_is_killed_loses_nothing(tmp_path: Path) -> None:
    with CrossCompiler(tmp_path, jobs=1) as compiler:
        compile_all(compiler, [rms_norm("sm_90")])
        (worker,) = compiler._workers
        worker._process.kill()
        worker._process.wait()
        compiled = compiler.compile([rms_norm("sm_80"), rms_norm("sm_89")])
        assert all(isinstance(kernel, Compiled) for kernel in compiled.values())
