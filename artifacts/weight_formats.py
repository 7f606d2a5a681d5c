"""The kinds of weights that a bundle may hold, a row for each: the names of their schemes, their bits, the shapes they refuse.

How kernels read them is in kernels/formats/, how they are made and exported in optimizer/formats/, under the same names: what
is said here needs neither. docs/adding.md has the recipe for another one.

fp32, bf16        float weights, fp32 activations and accumulation
int3              groups of 32 along the input dimension, fp16 scale, symmetric, weight only
int8              symmetric, one fp32 scale per output channel, weight only
int4-gG-sym|asym  groups of G along the input dimension, fp16 scale, uint4 zero point when asymmetric
int4-twolevel     groups of 16 along the input dimension, whose scale is a step of 1 to 15 times one fp32 scale of the
                  output channel: code - 8 times the step is an 8-bit integer, and products have no sums per group
...-a8            as above with int8 activations quantized per token at run time, int32 accumulation
int8-a16          int8 with int16 activations, likewise: two int8 products
fp8               e4m3 weights, one fp32 scale per output channel, and e4m3 activations, one per token, both at run time
fp8-block         as fp8, with a scale for every 128 x 128 weights, and for every 128 activations of a token
fp8-tensor        e4m3 weights and activations, one fp32 scale for all of each; that of activations is calibrated
mxfp4             e2m1 weights, an e8m0 scale for every 32 along the input dimension (OCP MX 1.0), weight only
nvfp4             e2m1 weights, an e4m3 scale for every 16 along the input dimension, one fp32 scale on top, weight only
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Activations = Literal["", "-a8", "-a16"]
Granularity = Literal["channel", "block", "tensor"]

#: columns and rows that share a scale under fp8-block, and columns under mxfp4, nvfp4, int4-twolevel and int3
FP8_BLOCK, MXFP4_GROUP, NVFP4_GROUP, TWO_LEVEL_GROUP, INT3_GROUP = 128, 32, 16, 16, 32


@dataclass(frozen=True)
class WeightFormat:
    """What the schemes of one kind of weights are called, store and refuse."""

    spelled: str
    """Their names, as messages list them."""
    code_bits: float
    group_bits: float = 0
    """Stored beside each group of columns: its scale, or its step. A scale of a whole row is negligible."""
    zero_bits: float = 0
    """And its zero point, where the scheme is asymmetric."""
    groups: tuple[int, ...] = (0,)
    """Sizes of groups along the input dimension: names say which, unless there is one. 0: a row is one group."""
    symmetries: tuple[bool, ...] = (True,)
    granularities: tuple[Granularity, ...] = ("channel",)
    activations: tuple[Activations, ...] = ("",)
    reads: Mapping[Activations, Activations] = field(default_factory=dict)
    """Activations -> those of the scheme whose tensors serve them too, on a CPU."""
    multiple: tuple[int, str] | None = None
    """What the input dimension must be a multiple of beside the group, and why."""
    is_float: bool = False
    rounds_activations: bool = False
    """Whether activations are rounded to eight bits whatever the name says of them."""


WEIGHT_FORMATS: Mapping[str, WeightFormat] = {
    "fp32": WeightFormat("fp32", 32.0, is_float=True),
    "bf16": WeightFormat("bf16", 16.0, is_float=True),
    "int3": WeightFormat("int3", 3, 16, groups=(INT3_GROUP,)),
    "int8": WeightFormat("int8, int8-a8, int8-a16", 8.0, activations=("", "-a8", "-a16"), reads={"-a16": "-a8"}),
    "fp8": WeightFormat(
        "fp8, fp8-block, fp8-tensor", 8.0, granularities=("channel", "block", "tensor"), rounds_activations=True
    ),
    "mxfp4": WeightFormat("mxfp4[-a8]", 4, 8, groups=(MXFP4_GROUP,), activations=("", "-a8"), reads={"-a8": ""}),
    "nvfp4": WeightFormat("nvfp4", 4, 8, groups=(NVFP4_GROUP,)),
    "int4-twolevel": WeightFormat(
        "int4-twolevel[-a8]",
        4,
        4,
        groups=(TWO_LEVEL_GROUP,),
        activations=("", "-a8"),
        reads={"-a8": ""},
        multiple=(2 * TWO_LEVEL_GROUP, "the steps of two groups share a byte"),
    ),
    "int4": WeightFormat(
        "int4-gG-sym|asym[-a8] with G in 32, 64, 128, 192",
        4,
        16,
        8,
        groups=(32, 64, 128, 192),
        symmetries=(True, False),
        activations=("", "-a8"),
        reads={"-a8": ""},
    ),
}
