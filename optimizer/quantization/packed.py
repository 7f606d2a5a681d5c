"""A quantized matrix in the memory layout that the kernels stream."""

from __future__ import annotations

from kernels import packing
from kernels.spec import Array
from optimizer.quantization.matrix import QuantizedMatrix


def pack_matrix(matrix: QuantizedMatrix) -> dict[str, Array]:
    """Part name -> packed array, as docs/architecture.md lists them for the matrix's scheme."""
    scheme = matrix.scheme
    parts: dict[str, Array] = {"weight" if scheme.weights in ("fp32", "bf16") else "codes": matrix.codes}
    if matrix.scales is not None:
        parts["scales"] = matrix.scales
    if matrix.zeros is not None:
        parts["zeros"] = matrix.zeros
    return packing.pack(parts, scheme.weights, scheme.int8_activations)
