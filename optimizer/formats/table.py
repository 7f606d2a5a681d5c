"""Every kind of weights by its name: see artifacts/weight_formats.py for what it is, kernels/formats/ for how it is read."""

from __future__ import annotations

from artifacts.precision import Scheme
from optimizer.formats.codec import Codec
from optimizer.formats.float4 import MXFP4, NVFP4
from optimizer.formats.floats import BF16, FP32
from optimizer.formats.fp8 import FP8
from optimizer.formats.int3 import INT3
from optimizer.formats.int4 import INT4
from optimizer.formats.int8 import INT8
from optimizer.formats.matrix import QuantizedMatrix
from optimizer.formats.stored_matrix import Misfit, StoredMatrix
from optimizer.formats.two_level import INT4_TWO_LEVEL

CODECS: dict[str, Codec] = {row.weights: row for row in (FP32, BF16, INT8, INT4, INT4_TWO_LEVEL, INT3, FP8, MXFP4, NVFP4)}


def kept_in(scheme: Scheme, stored: StoredMatrix) -> QuantizedMatrix | Misfit:
    """A checkpoint's own codes and scales as parts of `scheme`, of the same values bit for bit.

    Smaller groups repeat their scale; larger ones join neighbours of one scale, which formats of small blocks repeat.
    """
    if refusal := scheme.refusal(*stored.codes.shape):
        return Misfit(refusal)
    if stored.groups is not None:
        return Misfit("neighbouring columns are of different groups (desc_act)")
    kept = CODECS[scheme.weights].kept
    if kept is None:
        return Misfit(f"no checkpoint stores {scheme.weights}" if not scheme.is_float else f"{scheme.name} is a float scheme")
    return kept(stored, scheme)
