"""What the time models need to know of a GPU, per SM and per clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from artifacts.errors import UserError
from kernels.compile.occupancy import multiprocessor
from search_spaces.schema import Device, Figure

#: with an asynchronous matrix unit that Triton 3.9 uses: wgmma on sm_90, tcgen05 on the others (sm_120 has mma.sync only)
_WARPGROUP_ARCHS = ("sm_90", "sm_100", "sm_103")


@dataclass(frozen=True)
class GpuFacts:
    """A GPU as the models see it. `flops_per_clock` is per SM, by dtype; on AMD an SM is a CU and a warp a wave of 64."""

    name: str
    arch: str
    num_sms: int
    clock_ghz: float
    flops_per_clock: Mapping[str, float]
    memory_bandwidth_gbps: float
    shared_per_sm_bytes: int
    shared_per_block_bytes: int
    registers_per_sm: int

    @property
    def lanes(self) -> int:
        """Lanes of a warp."""
        return multiprocessor(self.arch).warp_size

    @property
    def is_amd(self) -> bool:
        return self.arch.startswith("gfx")

    @property
    def max_registers(self) -> int:
        """That one lane can address; on AMD vector and accumulation registers together."""
        return multiprocessor(self.arch).max_registers

    @property
    def max_warps_per_sm(self) -> int:
        return multiprocessor(self.arch).max_warps

    @property
    def has_warpgroup_mma(self) -> bool:
        """A matrix unit that reads shared memory by itself, 64 rows at a time (wgmma, tcgen05)."""
        return self.arch in _WARPGROUP_ARCHS

    @property
    def accumulates_in_tensor_memory(self) -> bool:
        """tcgen05: a running sum that is scaled in every iteration goes through registers and back."""
        return self.arch in ("sm_100", "sm_103")

    def computes(self, dtype: str) -> str:
        """The dtype that matrices of `dtype` are multiplied in: itself, or bf16 where the GPU has no rate for it."""
        return dtype if dtype in self.flops_per_clock else "bf16"


def gpu_facts(device: Device) -> GpuFacts:
    """The facts of `device`; UserError names a figure that its file does not state."""

    def stated(field: str) -> float:
        figure: Figure | None = getattr(device, field)
        if figure is None:
            raise UserError(
                f"the time model needs {field} of a device; {device.name} does not state it, add it with its source"
            )
        return figure.value

    if device.arch is None:
        raise UserError(
            f"the time model needs the arch of a device; {device.name} does not state it, add it (as sm_90 or gfx942)"
        )
    num_sms, clock_ghz = int(stated("num_sms")), stated("boost_clock_mhz") / 1e3
    per_clock = 1e12 / (num_sms * clock_ghz * 1e9)
    return GpuFacts(
        name=device.name,
        arch=device.arch,
        num_sms=num_sms,
        clock_ghz=clock_ghz,
        flops_per_clock={dtype: figure.value * per_clock for dtype, figure in device.peak_tflops.items()},
        memory_bandwidth_gbps=stated("memory_bandwidth_gbps"),
        shared_per_sm_bytes=int(stated("shared_memory_per_sm_kib") * 1024),
        shared_per_block_bytes=int(stated("shared_memory_per_block_kib") * 1024),
        registers_per_sm=int(stated("registers_per_sm")),
    )
