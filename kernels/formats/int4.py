"""int4 in groups of G columns: `codes` u8 [N, K] in 0..15, `scales` f16 [N, K/G], `zeros` u8 [N, K/G] where asymmetric.

value = scale (code - zero). Where it is symmetric zero is 8, and a scale may be negative. On a GPU codes lie in the order of
the matrix instruction's fragments (kernels/quant_matmul/gpu_packing.py). On a CPU they are words of eight: byte j of a u32 has
k = j in its low nibble and k = j + 4 in its high one. Shifts give single codes, and masking with 0x0f0f0f0f four in a row.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kernels.formats.format import CpuPacking, Decoded, Format, GpuPacking, Parts
from kernels.quant_matmul import gpu_packing
from kernels.spec import Array, Tensor


def to_words(codes: Array) -> Array:
    """u8 codes [N, K] -> u32 [N, K/8]."""
    quads = np.ascontiguousarray(codes, np.uint8).view("<u4")
    return np.asarray(quads[:, 0::2] | (quads[:, 1::2] << np.uint32(4)))


def from_words(words: Array) -> Array:
    """The inverse of `to_words`."""
    pairs = words.astype(np.uint32, copy=False)
    quads = np.empty((words.shape[0], words.shape[1] * 2), "<u4")
    quads[:, 0::2] = pairs & np.uint32(0x0F0F0F0F)
    quads[:, 1::2] = (pairs >> np.uint32(4)) & np.uint32(0x0F0F0F0F)
    return quads.view(np.uint8)


def _decode(parts: Parts) -> Decoded:
    scales = parts["scales"]
    zeros = np.repeat(parts["zeros"].astype(np.int8), parts["codes"].shape[1] // scales.shape[1], 1) if "zeros" in parts else 8
    return Decoded(parts["codes"].astype(np.int8) - np.int8(zeros), group_scales=scales)


def _random(rng: np.random.Generator, values: NDArray[np.float32], group_size: int) -> dict[str, Array]:
    rows, columns = values.shape
    return {
        "codes": rng.integers(0, 16, (rows, columns), np.uint8),
        "scales": (rng.uniform(0.1, 0.3, (rows, columns // group_size)) / columns**0.5).astype(np.float16),
    }


def _random_asym(rng: np.random.Generator, values: NDArray[np.float32], group_size: int) -> dict[str, Array]:
    parts = _random(rng, values, group_size)
    return parts | {"zeros": rng.integers(0, 16, parts["scales"].shape, np.uint8)}


def _to_rows(parts: Parts) -> dict[str, Array]:
    return {**parts, "codes": to_words(parts["codes"])}


def _from_rows(rows: Parts) -> dict[str, Array]:
    return {**rows, "codes": from_words(rows["codes"])}


def _pack_gpu(parts: Parts) -> dict[str, Array]:
    return gpu_packing.pack(parts, "int4")


def _unpack_gpu(tensors: Parts, num_rows: int, num_columns: int) -> dict[str, Array]:
    return gpu_packing.unpack(tensors, "int4", num_rows, num_columns)


def _cpu(name: str, *zeros: Tensor) -> CpuPacking:
    codes, scales = Tensor("codes", "u32", ("N", "K/8")), Tensor("scales", "f16", ("N", "groups"))
    return CpuPacking(
        name, (name, f"{name}_a8"), (codes, scales, *zeros), _to_rows, _from_rows, _random_asym if zeros else _random
    )


def _gpu(name: str) -> GpuPacking:
    tensors = gpu_packing.packed_tensors(name, "N", "K")
    return GpuPacking(name, tensors, f"gpu_quant_matmul_{name}", _pack_gpu, _unpack_gpu, embedding=name, experts=name)


INT4 = Format(
    "int4",
    _decode,
    (_cpu("int4_sym"), _cpu("int4_asym", Tensor("zeros", "u8", ("N", "groups")))),
    (_gpu("int4_sym"), _gpu("int4_asym")),
)
