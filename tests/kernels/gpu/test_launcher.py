"""Frozen kernels on a stand-in for the CUDA driver: what reaches it, and what is refused before anything does.

No GPU has run any of this.
"""

from __future__ import annotations

import gc
import json
import struct
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kernels import registry
from kernels.compile.cross_compile import CrossCompiler
from kernels.gpu.binary import BinaryMetadata
from kernels.gpu.cuda import CudaDriver
from kernels.gpu.frozen import FrozenKernel, FrozenKernels
from kernels.gpu.hip import HipDriver
from kernels.gpu.kernel_source import kernel_sources
from kernels.gpu.launch import I32, OpPlan, TensorMeta
from kernels.gpu.launcher import Launcher
from kernels.gpu.refusals import (
    ArgumentMismatch,
    CapabilityRefused,
    DriverError,
    DriverTooOld,
    GridRefused,
    ImageMalformed,
    KernelRefused,
    MisalignedPointer,
    MissingKernel,
    SharedMemoryRefused,
    SignatureMismatch,
)
from kernels.gpu.target import Target
from kernels.gpu.tensors import TORCH_DTYPES, empty, problem
from tests.kernels.gpu import contract, samples
from tests.kernels.gpu.compiling import compile_all


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "driver.log"
    path.touch()
    monkeypatch.setenv("FAKE_CUDA_LOG", str(path))
    know_parameters(monkeypatch, *(kernel for kernel in samples.table("sm_90").kernels.values()))
    return path


def know_parameters(monkeypatch: pytest.MonkeyPatch, *kernels: FrozenKernel) -> None:
    """Has the stand-in know what a driver reads from the cubins; cuobjdump read it for the samples."""
    sizes = {s.kernel.metadata.entry: s.parameters for s in samples.compiled("sm_90") if s.kernel in kernels}
    rules = (f"{entry}:{','.join(str(size) for _, size in parameters)}" for entry, parameters in sizes.items())
    monkeypatch.setenv("FAKE_CUDA_PARAMETERS", ";".join(rules))


def launches(log: Path) -> list[str]:
    return [line for line in log.read_text().splitlines() if line.startswith("launch ")]


def fake() -> CudaDriver:
    return CudaDriver(library=str(samples.fake_driver()))


def launcher(kernels: FrozenKernels | None = None) -> Launcher:
    return Launcher(fake(), kernels or samples.table("sm_90"), empty)


def tensors() -> dict[str, torch.Tensor]:
    metas = {name: of.meta for name, of in samples.TENSORS.items()}
    return {name: torch.empty_strided(m.shape, m.strides, dtype=TORCH_DTYPES[m.dtype]) for name, m in metas.items()}


SCALARS = samples.LAUNCHES[0]


def with_metadata(**changes: object) -> FrozenKernels:
    """The table of sm_90 with only the first sample, its metadata changed."""
    kernel = samples.compiled("sm_90")[0].kernel
    return FrozenKernels("sm_90", [replace(kernel, metadata=replace(kernel.metadata, **changes))])


@pytest.mark.parametrize("index", range(len(samples.LAUNCHES)))
def test_the_driver_is_given_what_tritons_launcher_gives_it(index: int, log: Path, tmp_path: Path) -> None:
    samples.table("sm_90").write(tmp_path / "frozen")
    memory, scratch = tensors(), []

    def allocate(meta: TensorMeta) -> torch.Tensor:
        scratch.append(empty(TensorMeta.contiguous("u8", meta.nbytes + 128)))
        return scratch[-1][-scratch[-1].data_ptr() % 128 :][: meta.nbytes]

    run = Launcher(fake(), FrozenKernels.read(tmp_path / "frozen"), allocate).run
    run(OpPlan((samples.LAUNCHES[index],)), memory, samples.STREAM)

    expected = samples.compiled("sm_90")[index].triton_launch
    moved = {of.address: memory[name].data_ptr() for name, of in samples.TENSORS.items()}
    for made in scratch:
        moved[samples.SCRATCH] = made.data_ptr() + -made.data_ptr() % 128
        assert made.numel() == 128 * 2 * 3 + 128, "128 bytes for the descriptor of each of 6 programs"
    for there, here in moved.items():
        expected = expected.replace(struct.pack("<Q", there).hex(), struct.pack("<Q", here).hex())
    assert launches(log) == [expected]


def rms_norm(compiler: CrossCompiler, arch: str) -> tuple[OpPlan, dict[str, torch.Tensor], FrozenKernels]:
    """A call of a real op, planned and compiled."""
    (spec, case) = next((s, c) for s, c in contract.cases("bf16") if s.symbol == "gpu_rms_norm" and c.name == "residual")
    made = contract.values(spec, contract.make(spec, case))
    call = problem(spec, made)
    plan = registry.plan_call(call, Target.of(arch, 132))
    (built,) = compile_all(compiler, kernel_sources(plan, call, arch))
    metadata = BinaryMetadata.from_json(json.loads((built.folder / "metadata.json").read_text()))
    present = {name: value for name, value in made.items() if isinstance(value, torch.Tensor)}
    return plan, present, FrozenKernels(arch, [FrozenKernel(built.source, metadata, built.image)])


@pytest.mark.parametrize(("arch", "warp_size"), [("sm_90", 32), ("gfx942", 64)])
def test_a_real_op_is_planned_frozen_and_launched(
    arch: str, warp_size: int, compiler: CrossCompiler, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, memory, kernels = rms_norm(compiler, arch)
    driver = fake() if arch == "sm_90" else HipDriver(library=str(samples.fake_driver("libamdhip64.so")))
    run = Launcher(driver, kernels, empty).run
    monkeypatch.setenv("FAKE_CUDA_PARAMETERS", "rms_norm_kernel:8,8,8,8,4,8,8")
    run(plan, memory, 5)

    pointers = [memory[name].data_ptr() for name in ("x", "residual", "weight", "out")]
    packed = [*(struct.pack("<Q", p).hex() for p in pointers), struct.pack("<f", 1e-5).hex(), "00" * 8, "00" * 8]
    (launch,) = plan.launches
    (kernel,) = kernels.kernels.values()
    shape = f"grid=3,1,1 block={warp_size * launch.num_warps},1,1 shared={kernel.metadata.shared_bytes} stream=5"
    assert launches(log) == [f"launch rms_norm_kernel {shape} parameters={','.join(packed)}"]

    wider = replace(launch, constants={**launch.constants, "D": 112})
    with pytest.raises(MissingKernel, match=rf"rms_norm_kernel for {arch} .*'D': 112.*nearest of 1 has D 104; plan with"):
        run(OpPlan((wider,)), memory)


def test_kernels_for_an_amd_gpu_run_on_no_other(compiler: CrossCompiler, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, kernels = rms_norm(compiler, "gfx942")
    monkeypatch.setenv("FAKE_HIP_ARCH", "gfx950")
    with pytest.raises(CapabilityRefused, match="is for gfx942 only, and Fake GPU 0 is gfx950; freeze for gfx950"):
        Launcher(HipDriver(library=str(samples.fake_driver("libamdhip64.so"))), kernels, empty)
    with pytest.raises(CapabilityRefused, match="Fake GPU 0 is sm_90"):
        launcher(kernels)
    with pytest.raises(CapabilityRefused, match="that compute capability only, and Fake GPU 0 is gfx950"):
        Launcher(HipDriver(library=str(samples.fake_driver("libamdhip64.so"))), samples.table("sm_90"), empty)


def test_what_was_prepared_runs_again_on_any_stream_and_thread(log: Path) -> None:
    prepared = launcher().prepare(OpPlan(samples.LAUNCHES[:3]), tensors())
    gc.collect()
    prepared.run(1)
    once = launches(log)
    assert len(once) == 3
    log.write_text("")
    thread = threading.Thread(target=prepared.run, args=(2,))
    thread.start()
    thread.join()
    again = log.read_text().splitlines()
    assert again == ["context", *(line.replace("stream=1 ", "stream=2 ") for line in once)], "one call a launch, no other"


def test_workspaces_are_made_once_for_a_plan_zeroed_and_kept(log: Path) -> None:
    made: list[weakref.ref[torch.Tensor]] = []

    def allocate(meta: TensorMeta) -> torch.Tensor:
        tensor = empty(meta)
        assert not tensor.any()
        made.append(weakref.ref(tensor))
        return tensor

    memory = {"x": tensors()["x"]}
    plan = OpPlan((SCALARS, SCALARS), {"y": samples.TENSORS["y"].meta})
    prepared = Launcher(fake(), samples.table("sm_90"), allocate).prepare(plan, memory)
    address = memory.pop("x").data_ptr()
    gc.collect()
    prepared.run()
    prepared.run()
    (workspace,) = made
    alive = workspace()
    assert alive is not None
    lines = launches(log)
    assert len(lines) == 4
    assert all(struct.pack("<Q", pointer).hex() in line for line in lines for pointer in (address, alive.data_ptr()))
    del prepared, alive
    gc.collect()
    assert workspace() is None


def test_an_empty_grid_is_not_launched(log: Path) -> None:
    launcher().run(OpPlan((replace(SCALARS, grid=(0, 1, 1)), SCALARS)), tensors())
    assert len(launches(log)) == 1


@pytest.mark.parametrize(
    ("environment", "arch", "error", "says"),
    [
        (
            {"CAPABILITY": "89"},
            "sm_90",
            CapabilityRefused,
            "for sm_90: it runs on that compute capability only, and Fake GPU 0 is sm_89",
        ),
        ({"CAPABILITY": "100"}, "sm_90", CapabilityRefused, "is sm_100; freeze for it"),
        ({"CAPABILITY": "86"}, "sm_89", CapabilityRefused, "or a later one of the same major version, and Fake GPU 0 is sm_86"),
        ({"CAPABILITY": "90"}, "sm_89", CapabilityRefused, "for sm_89"),
        (
            {"VERSION": "12090"},
            "sm_90",
            DriverTooOld,
            r"assembled by CUDA 13.\d+ \(ELF ABI 8\).*driver of CUDA 13.0.*is of 12.9",
        ),
        ({"VERSION": "11080", "CAPABILITY": "89"}, "sm_89", DriverTooOld, r"CUDA 12.\d+ \(ELF ABI 7\).*is of 11.8"),
        ({"SHARED": "73751"}, "sm_90", SharedMemoryRefused, "needs 73752 bytes of shared memory.*may have 73751"),
    ],
)
def test_a_device_or_driver_that_does_not_suit_is_refused_before_anything_is_loaded(
    environment: Mapping[str, str], arch: str, error: type[KernelRefused], says: str, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(f"FAKE_CUDA_{name}", value)
    with pytest.raises(error, match=says):
        launcher(samples.table(arch))
    assert log.read_text() == ""


def test_a_driver_of_the_same_major_version_loads_what_a_later_toolkit_assembled(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_CUDA_VERSION", "12000")
    monkeypatch.setenv("FAKE_CUDA_CAPABILITY", "89")
    launcher(samples.table("sm_89"))
    assert log.read_text().count("module") == len(samples.LAUNCHES)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"num_warps": 4}, "4 warps by its metadata, 64 threads by its image"),
        ({"parameters": (("x", "*bf16"),)}, r"parameters of \(8, 8, 8\) bytes by its metadata; its image takes \(8, 4, 4, 8"),
        ({"entry": "other"}, "must be other in its image, which has scalars"),
        ({"arch": "sm_89"}, "for sm_90 by its source and for sm_89 by its metadata"),
        ({"profile_scratch_bytes": 8}, "must not be instrumented"),
    ],
)
def test_metadata_that_is_not_the_images_is_refused(changes: dict[str, object], says: str, log: Path) -> None:
    with pytest.raises(SignatureMismatch, match=says):
        launcher(with_metadata(**changes))
    assert log.read_text() == ""


def test_a_call_that_does_not_suit_its_kernel_is_refused_before_it_is_launched(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = launcher().run
    memory = tensors()
    odd = torch.zeros(257, dtype=torch.bfloat16)[1:]
    plan = OpPlan((SCALARS,))
    for call, tensors_, error, says in (
        (plan, memory | {"x": odd}, MisalignedPointer, "x of sample.scalars must be a multiple of 16"),
        (plan, memory | {"x": memory["x"].half()}, MissingKernel, r"'x': '\*fp16'.*nearest of 1 has x '\*bf16'"),
        (plan, {"x": memory["x"], "y": None}, ArgumentMismatch, "scalars is over y, and the call has x; pass it"),
        (OpPlan((replace(SCALARS, num_warps=4),)), memory, MissingKernel, "4 warps.*nearest of 1 has num_warps 2"),
        (OpPlan((replace(SCALARS, function="none"),)), memory, MissingKernel, "The table has no kernel of sample.none"),
        (OpPlan((replace(SCALARS, grid=(1, 65536, 1)),)), memory, GridRefused, r"\(1, 65536, 1\); plan larger programs"),
        (
            OpPlan((replace(SCALARS, arguments={**SCALARS.arguments, "count": I32(1 << 40)}),)),
            memory,
            ArgumentMismatch,
            "count of",
        ),
    ):
        with pytest.raises(error, match=says):
            run(call, tensors_)
    monkeypatch.setenv("FAKE_CUDA_ELSEWHERE", str(memory["y"].data_ptr()))
    with pytest.raises(ArgumentMismatch, match="tensor y must be on Fake GPU 0"):
        run(plan, memory)
    assert launches(log) == []


def test_a_launch_that_the_driver_refuses_is_named(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = launcher().prepare(OpPlan((SCALARS,)), tensors())
    monkeypatch.setenv("FAKE_CUDA_FAIL", "cuLaunchKernel=1")
    with pytest.raises(DriverError, match=r"the launch of sample.scalars failed with error 1: invalid argument"):
        prepared.run()


def test_scratch_must_be_aligned(log: Path) -> None:
    (launch,) = (launch for launch in samples.LAUNCHES if launch.function == "scratch")

    def unaligned(meta: TensorMeta) -> torch.Tensor:
        made = empty(TensorMeta.contiguous("u8", meta.nbytes + 256))
        return made[-made.data_ptr() % 128 + 64 :]

    with pytest.raises(MisalignedPointer, match=r"scratch of sample.scratch must be a multiple of 128"):
        Launcher(fake(), samples.table("sm_90"), unaligned).prepare(OpPlan((launch,)), tensors())


def test_an_image_that_is_no_cubin_is_refused(log: Path) -> None:
    kernel = samples.compiled("sm_90")[0].kernel
    newer = bytearray(kernel.image)
    newer[8] = 9
    for image, says in (
        (b"text", "little-endian"),
        (bytes(newer), "ELF ABI 0x33/7 and 0x41/8, got 0x41/9"),
        (kernel.image[:200], "whole cubin"),
    ):
        with pytest.raises(ImageMalformed, match=says):
            launcher(FrozenKernels("sm_90", [replace(kernel, image=image)]))
    assert log.read_text() == ""


def test_frozen_kernels_are_read_and_judged_without_torch_and_launched_without_triton(tmp_path: Path) -> None:
    samples.table("sm_90").write(tmp_path)
    script = f"""
import sys
sys.modules["torch"] = sys.modules["triton"] = None
from pathlib import Path
from kernels.gpu import arguments, fit, frozen
from kernels.gpu.cuda import CudaDriver
driver = CudaDriver(library={str(samples.fake_driver())!r})
for kernel in frozen.FrozenKernels.read(Path({str(tmp_path)!r})).kernels.values():
    fit.check(kernel, driver.device)
    driver.load(kernel.image, kernel.metadata.entry, kernel.metadata.shared_bytes)
del sys.modules["torch"]
from kernels.gpu import launcher, self_test
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=registry.ROOT.parent)
