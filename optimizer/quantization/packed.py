"""From logical codes to the parts that a bundle stores and kernels read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from artifacts.precision import Scheme
from kernels.packing import pack
from kernels.quant_matmul import gpu_packing
from kernels.scaled_matmul.packing import pack_mxfp4, pack_nvfp4
from kernels.spec import Array
from optimizer.quantization.matrix import QuantizedMatrix


@dataclass(frozen=True)
class Layout:
    """How the kernels of a target want weights. `storage` maps a scheme to the one whose tensors it reads."""

    storage: Callable[[Scheme], Scheme]
    pack: Callable[[QuantizedMatrix], dict[str, Array]]
    """Part name (`weight`, or `codes`, `scales` and what else the scheme has) -> packed array."""


def pack_matrix(matrix: QuantizedMatrix) -> dict[str, Array]:
    """Part name (`weight`, or `codes`, `scales` and `zeros`) -> packed array, in the CPU's layout of docs/architecture.md."""
    scheme = matrix.scheme
    logical: dict[str, Array | None] = {
        "weight" if matrix.scales is None else "codes": matrix.codes,
        "scales": matrix.scales,
        "zeros": matrix.zeros,
    }
    if scheme.weights == "int4-twolevel":
        logical = {"codes": matrix.codes, "steps": matrix.scales, "scales": matrix.row_scales}
    parts = {name: array for name, array in logical.items() if array is not None}
    return pack(parts, scheme.weights, scheme.storage.int8_activations)


def pack_gpu_matrix(matrix: QuantizedMatrix) -> dict[str, Array]:
    """The same in the layout of GPU kernels: row-major, codes of 4 bits packed as runtime/gpu/weights.py says."""
    scheme, codes, scales = matrix.scheme, matrix.codes, matrix.scales
    if scales is None:
        return {"weight": codes}
    if scheme.weights == "int4":
        zeros = {} if matrix.zeros is None else {"zeros": matrix.zeros}
        return gpu_packing.pack({"codes": codes, "scales": scales, **zeros}, "int4")
    if scheme.weights == "mxfp4":
        words, word_scales = pack_mxfp4(codes.astype(np.uint8), scales.astype(np.uint8))
        return {"codes": words, "scales": word_scales}
    if scheme.weights == "nvfp4":
        assert matrix.row_scales is not None
        words, word_scales = pack_nvfp4(codes.astype(np.uint8), scales.astype(np.uint8))
        return {"codes": words, "scales": word_scales, "row_scales": matrix.row_scales}
    assert (matrix.input_scale is not None) == scheme.static_activations, "scales of activations come from a calibration"
    static = {} if matrix.input_scale is None else {"input_scale": matrix.input_scale}
    return {"codes": codes, "scales": scales, **static}


def _gpu_storage(scheme: Scheme) -> Scheme:
    """int8 codes lie the same for 16-bit and for int8 activations."""
    return replace(scheme, int8_activations=False)


GPU_LAYOUT = Layout(storage=_gpu_storage, pack=pack_gpu_matrix)
CPU_LAYOUT = Layout(storage=lambda scheme: scheme.storage, pack=pack_matrix)
