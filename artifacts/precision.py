"""Precision schemes and the plan that gives one to every layer group."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from artifacts.errors import UserError

WeightDtype = Literal["fp32", "bf16", "int8", "int4", "int4-twolevel", "fp8", "mxfp4", "nvfp4"]
KvDtype = Literal["fp32", "bf16", "fp16", "int8", "fp8"]
Granularity = Literal["channel", "block", "tensor"]

_NAME = re.compile(
    r"(fp32|bf16|mxfp4|nvfp4|fp8(?P<fp8>-block|-tensor)?|int8-a16|(int8|int4-twolevel)(?P<a8>-a8)?"
    r"|int4-g(?P<group>\d+)-(?P<sym>sym|asym)(?P<a4>-a8)?)"
)
GROUP_SIZES = (32, 64, 128, 192)
#: columns and rows that share a scale under fp8-block, and columns under mxfp4, nvfp4 and int4-twolevel
FP8_BLOCK, MXFP4_GROUP, NVFP4_GROUP, TWO_LEVEL_GROUP = 128, 32, 16, 16


@dataclass(frozen=True)
class Scheme:
    """How one layer group's weights, and the activations that meet them, are stored and multiplied.

    fp32, bf16        float weights, fp32 activations and accumulation
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

    What a device has kernels for is its search space's to say.
    """

    weights: WeightDtype
    group_size: int = 0
    symmetric: bool = True
    int8_activations: bool = False
    int16_activations: bool = False
    granularity: Granularity = "channel"
    """Which weights share a scale under fp8."""

    @classmethod
    def parse(cls, name: str) -> Scheme:
        """The scheme called `name`; ValueError names the rule and the value."""
        match = _NAME.fullmatch(name)
        if match is None or (match["group"] and int(match["group"]) not in GROUP_SIZES):
            raise UserError(
                "a scheme is fp32, bf16, int8, int8-a8, int8-a16, fp8, fp8-block, fp8-tensor, mxfp4, nvfp4, "
                f"int4-twolevel[-a8] or int4-gG-sym|asym[-a8] with G in {', '.join(map(str, GROUP_SIZES))}; got {name!r}"
            )
        if match["group"]:
            return cls("int4", int(match["group"]), match["sym"] == "sym", bool(match["a4"]))
        if name == "int8-a16":
            return cls("int8", int16_activations=True)
        if name.startswith("int8"):
            return cls("int8", int8_activations=bool(match["a8"]))
        if name.startswith("int4-twolevel"):
            return cls("int4-twolevel", TWO_LEVEL_GROUP, int8_activations=bool(match["a8"]))
        if name.startswith("fp8"):
            granularities: dict[str, Granularity] = {"-block": "block", "-tensor": "tensor"}
            return cls("fp8", granularity=granularities.get(match["fp8"], "channel"))
        if name == "mxfp4":
            return cls("mxfp4", MXFP4_GROUP)
        if name == "nvfp4":
            return cls("nvfp4", NVFP4_GROUP)
        return cls("fp32" if name == "fp32" else "bf16")

    @property
    def name(self) -> str:
        suffix = "-a8" if self.int8_activations else "-a16" if self.int16_activations else ""
        if self.weights == "int4":
            return f"int4-g{self.group_size}-{'sym' if self.symmetric else 'asym'}{suffix}"
        if self.granularity != "channel":
            return f"{self.weights}-{self.granularity}"
        return self.weights + suffix

    @property
    def is_float(self) -> bool:
        """Whether weights are floats without scales."""
        return self.weights in ("fp32", "bf16")

    @property
    def integer_activations(self) -> bool:
        """Whether activations are rounded to integers, of eight bits or sixteen, before they meet the weights."""
        return self.int8_activations or self.int16_activations

    @property
    def quantized_activations(self) -> bool:
        """Whether activations are rounded to eight bits, integer or float, before they meet the weights."""
        return self.int8_activations or self.weights == "fp8"

    @property
    def static_activations(self) -> bool:
        """Whether activations are rounded under a scale that calibration found, and not one of their own."""
        return self.granularity == "tensor"

    @property
    def storage(self) -> Scheme:
        """The scheme whose tensors this one reads.

        4-bit codes lie the same for float and for int8 activations, those of 8 bits for int8 and for int16 ones.
        """
        if self.int16_activations:
            return replace(self, int8_activations=True, int16_activations=False)
        return replace(self, int8_activations=False) if self.weights.startswith("int4") else self

    @property
    def bits_per_weight(self) -> float:
        """Stored bits per weight, scales and zero points included (per-channel scales are negligible)."""
        if self.weights == "int4":
            return 4 + (16 + (0 if self.symmetric else 8)) / self.group_size
        if self.weights in ("mxfp4", "nvfp4"):
            return 4 + 8 / self.group_size
        if self.weights == "int4-twolevel":
            return 4 + 4 / self.group_size
        return {"fp32": 32.0, "bf16": 16.0, "int8": 8.0, "fp8": 8.0}[self.weights]

    def refusal(self, out_features: int, in_features: int) -> str | None:
        """Why a matrix of this shape cannot take this scheme, or None."""
        if self.group_size and in_features % self.group_size:
            return f"in_features {in_features} is not a multiple of group size {self.group_size}"
        if self.weights == "int4-twolevel" and in_features % (2 * self.group_size):
            return f"in_features {in_features} is not a multiple of {2 * self.group_size}: the steps of two groups share a byte"
        if self.integer_activations and in_features % 32:
            return f"in_features {in_features} is not a multiple of 32, the block of activation sums"
        return None


#: layer group -> scheme
Plan = Mapping[str, Scheme]
