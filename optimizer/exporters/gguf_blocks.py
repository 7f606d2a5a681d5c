"""Matrices in ggml's block types: 32 values of a row under one fp16 scale, and a minimum in Q4_1.

    type   block                                  value                  exact for
    Q4_0   d f16, 16 bytes                        d (q - 8)              int4 symmetric, all group sizes
    Q4_1   d f16, m f16, 16 bytes                 d q + m                int4 asymmetric; m = -scale zero rounds to f16
    MXFP4  e u8, 16 bytes                         2^(e - 127) e2m1(q)    mxfp4
    Q8_0   d f16, 32 i8                           d q                    int8 where the channel's fp32 scale fits f16

A group of 64 or 128 is two or four blocks with the same scale. Byte j of a 4-bit block has value j in its low nibble and
value 16 + j in its high one. Source: ggml's ggml-common.h and ggml-quants.c.
"""

from __future__ import annotations

import numpy as np
from gguf import GGMLQuantizationType as Kind
from numpy.typing import NDArray

from artifacts.precision import Scheme
from kernels.scaled_matmul.packing import split_nibbles
from kernels.spec import Array
from optimizer.exporters.errors import ExportError
from optimizer.formats.matrix import QuantizedMatrix
from optimizer.formats.table import CODECS

BLOCK = 32


def block_kind(scheme: Scheme, num_columns: int) -> Kind:
    """The ggml type that loses nothing of `scheme`, or least."""
    codec = CODECS[scheme.weights]
    kind = Kind[codec.gguf if scheme.symmetric else codec.gguf_asymmetric]
    return Kind.F16 if kind is Kind.Q8_0 and num_columns % BLOCK else kind


def reason(kind: Kind) -> str:
    """Why values change when they are stored as `kind`."""
    return {
        Kind.Q8_0: "a block has a scale in fp16, and the bundle has a channel's in fp32",
        Kind.Q4_1: "a block has its minimum in fp16, and the bundle has a zero point",
        Kind.F16: "of the types of ggml that are written here none has such scales",
    }[kind]


def blocks(name: str, matrix: QuantizedMatrix, kind: Kind) -> Array:
    """`matrix` as `kind`: f32 or f16 [N, K], or the bytes u8 [N, ...] of each row. ExportError where fp16 overflows."""
    if kind is Kind.F32:
        return matrix.codes
    if kind is Kind.BF16:
        return np.ascontiguousarray(matrix.codes).view(np.uint8)
    if kind is Kind.F16:
        return _f16(name, matrix.dequantize())
    assert matrix.scales is not None
    rows, columns = matrix.shape
    if kind is Kind.Q8_0:
        d = np.repeat(_f16(name, matrix.scales)[:, None], columns // BLOCK, axis=1)
        return _joined(d[..., None], matrix.codes.reshape(rows, -1, BLOCK))
    codes = matrix.codes.astype(np.uint8)
    if kind is Kind.MXFP4:
        codes = split_nibbles(codes)
    low, high = np.moveaxis(codes.reshape(rows, -1, 2, BLOCK // 2), 2, 0)
    nibbles = low | (high << np.uint8(4))
    if kind is Kind.MXFP4:
        return _joined(matrix.scales[..., None], nibbles)
    d = np.repeat(matrix.scales.astype(np.float16), matrix.scheme.group_size // BLOCK, axis=1)
    if kind is Kind.Q4_0:
        return _joined(d[..., None], nibbles)
    assert matrix.zeros is not None
    zeros = np.repeat(matrix.zeros, matrix.scheme.group_size // BLOCK, axis=1)
    minima = _f16(name, -d.astype(np.float32) * zeros)
    return _joined(np.stack((d, minima), axis=-1), nibbles)


def _f16(name: str, values: Array) -> NDArray[np.float16]:
    with np.errstate(over="ignore"):
        rounded = values.astype(np.float16)
    if not np.isfinite(rounded).all():
        raise ExportError(f"{name} needs {float(np.abs(values).max()):.6g} in fp16, which ends at 65504; keep it in bf16")
    return rounded


def _joined(head: Array, body: Array) -> Array:
    """Blocks [N, blocks, ...] as bytes [N, blocks * bytes], `head` before `body`."""
    parts = [np.ascontiguousarray(part).view(np.uint8).reshape(*part.shape[:2], -1) for part in (head, body)]
    return np.concatenate(parts, axis=2).reshape(head.shape[0], -1)
