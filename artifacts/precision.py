"""Precision schemes and the plan that gives one to every layer group."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

WeightDtype = Literal["fp32", "bf16", "int8", "int4"]
KvDtype = Literal["fp32", "bf16"]

_NAME = re.compile(r"(fp32|bf16|int8(?P<a8>-a8)?|int4-g(?P<group>\d+)-(?P<sym>sym|asym)(?P<a4>-a8)?)")
GROUP_SIZES = (32, 64, 128)


@dataclass(frozen=True)
class Scheme:
    """How one layer group's weights, and the activations that meet them, are stored and multiplied.

    fp32, bf16        float weights, fp32 activations and accumulation
    int8              symmetric, one fp32 scale per output channel, weight only
    int4-gG-sym|asym  groups of G along the input dimension, fp16 scale, uint4 zero point when asymmetric
    ...-a8            as above with int8 activations quantized per token at run time, int32 accumulation
    """

    weights: WeightDtype
    group_size: int = 0
    symmetric: bool = True
    int8_activations: bool = False

    @classmethod
    def parse(cls, name: str) -> Scheme:
        """The scheme called `name`; ValueError names the rule and the value."""
        match = _NAME.fullmatch(name)
        if match is None or (match["group"] and int(match["group"]) not in GROUP_SIZES):
            raise ValueError(
                "a scheme is fp32, bf16, int8, int8-a8 or int4-gG-sym|asym[-a8] with G in "
                f"{', '.join(map(str, GROUP_SIZES))}; got {name!r}"
            )
        if match["group"]:
            return cls("int4", int(match["group"]), match["sym"] == "sym", bool(match["a4"]))
        if name.startswith("int8"):
            return cls("int8", int8_activations=bool(match["a8"]))
        return cls("fp32" if name == "fp32" else "bf16")

    @property
    def name(self) -> str:
        suffix = "-a8" if self.int8_activations else ""
        if self.weights == "int4":
            return f"int4-g{self.group_size}-{'sym' if self.symmetric else 'asym'}{suffix}"
        return self.weights + suffix

    @property
    def storage(self) -> Scheme:
        """The scheme whose tensors this one reads: int4 codes lie the same for float and for int8 activations."""
        return Scheme(self.weights, self.group_size, self.symmetric) if self.weights == "int4" else self

    @property
    def bits_per_weight(self) -> float:
        """Stored bits per weight, scales and zero points included (per-channel scales are negligible)."""
        if self.weights == "int4":
            return 4 + (16 + (0 if self.symmetric else 8)) / self.group_size
        return {"fp32": 32.0, "bf16": 16.0, "int8": 8.0}[self.weights]

    def refusal(self, out_features: int, in_features: int) -> str | None:
        """Why a matrix of this shape cannot take this scheme, or None."""
        if self.weights == "int4" and in_features % self.group_size:
            return f"in_features {in_features} is not a multiple of group size {self.group_size}"
        if self.int8_activations and in_features % 32:
            return f"in_features {in_features} is not a multiple of 32, the block of activation sums"
        return None


#: layer group -> scheme
Plan = Mapping[str, Scheme]
