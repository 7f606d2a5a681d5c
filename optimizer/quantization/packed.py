"""From logical parts to the tensors that a bundle stores and kernels read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from artifacts.precision import Scheme
from kernels.formats.fp8 import INPUT_SCALE
from kernels.formats.table import cpu_packing, gpu_packing
from kernels.spec import Array
from optimizer.formats.matrix import QuantizedMatrix


@dataclass(frozen=True)
class Layout:
    """How the kernels of a target want weights. `storage` maps a scheme to the one whose tensors it reads."""

    storage: Callable[[Scheme], Scheme]
    pack: Callable[[QuantizedMatrix], dict[str, Array]]
    """Part name (`weight`, or `codes`, `scales` and what else the scheme has) -> packed array."""
    divides_experts: bool = False
    """Whether rare experts of a layer may have a scheme of their own."""


def pack_matrix(matrix: QuantizedMatrix) -> dict[str, Array]:
    """Part name -> packed array, in the CPU's layout of docs/architecture.md."""
    return cpu_packing(matrix.scheme.variant).pack(matrix.parts)


def pack_gpu_matrix(matrix: QuantizedMatrix) -> dict[str, Array]:
    """The same in the layout of GPU kernels."""
    packing = gpu_packing(matrix.scheme.variant)
    assert packing is not None, f"a search offers no {matrix.scheme.name} for GPUs"
    assert (INPUT_SCALE in matrix.parts) == matrix.scheme.static_activations, "scales of activations come from a calibration"
    return packing.pack(matrix.parts)


def _gpu_storage(scheme: Scheme) -> Scheme:
    """int8 codes lie the same for 16-bit and for int8 activations."""
    return replace(scheme, int8_activations=False)


GPU_LAYOUT = Layout(storage=_gpu_storage, pack=pack_gpu_matrix)
CPU_LAYOUT = Layout(storage=lambda scheme: scheme.storage, pack=pack_matrix, divides_experts=True)
