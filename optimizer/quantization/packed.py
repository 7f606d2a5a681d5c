"""From logical codes to the parts that a bundle stores and kernels read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from artifacts.precision import Scheme
from kernels.packing import pack
from kernels.spec import Array
from optimizer.quantization.matrix import QuantizedMatrix


@dataclass(frozen=True)
class Layout:
    """How the kernels of a target want weights. `storage` maps a scheme to the one whose tensors it reads."""

    storage: Callable[[Scheme], Scheme]
    pack: Callable[[QuantizedMatrix], dict[str, Array]]
    """Part name (`weight`, or `codes`, `scales` and `zeros`) -> packed array."""


def pack_matrix(matrix: QuantizedMatrix) -> dict[str, Array]:
    """Part name (`weight`, or `codes`, `scales` and `zeros`) -> packed array, in the CPU's layout of docs/architecture.md."""
    scheme = matrix.scheme
    logical: dict[str, Array | None] = {
        "weight" if matrix.scales is None else "codes": matrix.codes,
        "scales": matrix.scales,
        "zeros": matrix.zeros,
    }
    parts = {name: array for name, array in logical.items() if array is not None}
    return pack(parts, scheme.weights, scheme.int8_activations)


CPU_LAYOUT = Layout(storage=lambda scheme: scheme.storage, pack=pack_matrix)
