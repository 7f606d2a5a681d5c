"""Kernels compiled on the spot and launched where a device is. Needs `kernels` alone: neither pydantic nor optuna."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from kernels import registry
from kernels.compile.cross_compile import CrossCompiler
from kernels.gpu.cuda import CudaDriver
from kernels.gpu.driver import Driver
from kernels.gpu.frozen import FrozenKernel, FrozenKernels
from kernels.gpu.hip import HipDriver
from kernels.gpu.kernel_source import KernelSource, kernel_sources
from kernels.gpu.launch import OpPlan, Problem
from kernels.gpu.launcher import Allocate, Launcher
from kernels.gpu.target import ARCHS, Target
from kernels.gpu.tensors import empty
from tests.kernels.gpu.compiling import compile_all
from tests.kernels.gpu.contract import Run


@dataclass(frozen=True)
class Gpu:
    """A device that kernels can be compiled for, as the driver and as torch know it."""

    driver: Driver
    target: Target
    torch_device: str

    def launcher(self, compiler: CrossCompiler, calls: Iterable[Problem]) -> Launcher:
        """The kernels of `calls` at their default points, compiled, frozen and loaded."""
        sources: dict[str, KernelSource] = {}
        for call in calls:
            plan = registry.plan_call(call, self.target)
            sources |= {source.identity: source for source in kernel_sources(plan, call, self.target.arch.name)}
        kernels = [FrozenKernel(k.source, k.metadata, k.image) for k in compile_all(compiler, sources.values())]
        allocate: Allocate = lambda wanted: empty(wanted, self.torch_device)  # noqa: E731
        return Launcher(self.driver, FrozenKernels(self.target.arch.name, kernels), allocate)

    def run(self, launcher: Launcher) -> Run:
        """Launches plans over tensors of the host, which it copies to the device and back."""

        def run(plan: OpPlan, tensors: Mapping[str, torch.Tensor | None]) -> None:
            placed = {name: None if tensor is None else self._placed(tensor) for name, tensor in tensors.items()}
            launcher.run(plan, placed, self._stream())
            for name, tensor in tensors.items():
                if tensor is not None and (there := placed[name]) is not None:
                    tensor.copy_(there)

        return run

    def legal(self, call: Problem) -> bool:
        """Whether the device has what `call` needs."""
        tuning = registry.gpu_tuning(registry.spec(call.symbol).op)
        return tuning.refusal(call, tuning.default(call, self.target), self.target) is None

    def _placed(self, tensor: torch.Tensor) -> torch.Tensor:
        # Strides are constants of kernels, and `to` would not keep those of a view.
        empty_one = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=self.torch_device)
        return empty_one.copy_(tensor)

    def _stream(self) -> int:
        return torch.cuda.current_stream().cuda_stream if self.torch_device == "cuda" else 0


def find_gpu() -> Gpu | str:
    """The first device, or why there is none to test on."""
    if not torch.cuda.is_available():
        return "torch sees no GPU"
    driver = HipDriver() if torch.version.hip else CudaDriver()
    device = driver.device
    if device.arch not in ARCHS:
        return f"kernels are compiled for {', '.join(ARCHS)}, and {device.name} is {device.arch}"
    return Gpu(driver, Target.of(device.arch, device.num_sms), "cuda")
