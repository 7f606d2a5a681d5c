"""From logical codes to the parts that a bundle stores and kernels read."""

from __future__ import annotations

from kernels.packing import pack
from kernels.spec import Array
from optimizer.quantization.matrix import QuantizedMatrix


def pack_matrix(matrix: QuantizedMatrix) -> dict[str, Array]:
    """Part name (`weight`, or `codes`, `scales` and `zeros`) -> packed array, in the layout of docs/architecture.md."""
    scheme = matrix.scheme
    logical: dict[str, Array | None] = {
        "weight" if matrix.scales is None else "codes": matrix.codes,
        "scales": matrix.scales,
        "zeros": matrix.zeros,
    }
    parts = {name: array for name, array in logical.items() if array is not None}
    return pack(parts, scheme.weights, scheme.int8_activations)
