"""int8: `codes` i8 [N, K], `scales` f32 [N]; value = scale code.

On a CPU codes lie one k after the other for float activations; for int8 and int16 ones four k to a lane, as code + 128: what
dot products of bytes take. On a GPU both row-major.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kernels.formats.format import CpuPacking, Decoded, Format, GpuPacking, Parts, kept, kept_of
from kernels.spec import Array, Tensor

_SCALES = Tensor("scales", "f32", ("N",))


def _decode(parts: Parts) -> Decoded:
    return Decoded(parts["codes"], row_scales=parts["scales"])


def _random(rng: np.random.Generator, values: NDArray[np.float32], group_size: int) -> dict[str, Array]:
    scales = np.maximum(np.abs(values).max(axis=1), 1e-6).astype(np.float32) / np.float32(127)
    return {"codes": np.rint(values / scales[:, None]).astype(np.int8), "scales": scales}


def _to_quads(parts: Parts) -> dict[str, Array]:
    codes = np.ascontiguousarray(parts["codes"])
    return {**parts, "codes": (codes.view(np.uint8) ^ np.uint8(128)).reshape(len(codes), codes.shape[1] // 4, 4)}


def _from_quads(rows: Parts) -> dict[str, Array]:
    quads = rows["codes"]
    return {**rows, "codes": (quads ^ np.uint8(128)).view(np.int8).reshape(len(quads), 4 * quads.shape[1])}


def _gpu(name: str, matmul: str, form: str, experts: str) -> GpuPacking:
    tensors = Tensor("codes", "i8", ("N", "K")), _SCALES
    return GpuPacking(name, tensors, matmul, kept, kept_of, form, embedding="int8", experts=experts)


INT8 = Format(
    "int8",
    _decode,
    (
        CpuPacking("int8", ("int8",), (Tensor("codes", "i8", ("N", "K")), _SCALES), kept, kept, _random),
        CpuPacking(
            "int8_a8",
            ("int8_a8", "int8_a16"),
            (Tensor("codes", "u8", ("N", "K/4", 4)), _SCALES),
            _to_quads,
            _from_quads,
            _random,
        ),
    ),
    (
        _gpu("int8", "gpu_quant_matmul_int8", "", "w8"),
        _gpu("int8_a8", "gpu_scaled_matmul_int8", "int8", "int8"),
    ),
)
