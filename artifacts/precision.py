"""Precision schemes and the plan that gives one to every layer group."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

from artifacts.errors import UserError
from artifacts.weight_formats import WEIGHT_FORMATS, Activations, Granularity, WeightFormat

KvDtype = Literal["fp32", "bf16", "fp16", "int8", "fp8"]


@dataclass(frozen=True)
class Scheme:
    """How one layer group's weights, and the activations that meet them, are stored and multiplied.

    artifacts/weight_formats.py says what there is; what a device has kernels for is kernels/formats/'s to say.
    """

    weights: str
    """A row of artifacts/weight_formats.py."""
    group_size: int = 0
    symmetric: bool = True
    int8_activations: bool = False
    int16_activations: bool = False
    granularity: Granularity = "channel"
    """Which weights share a scale under fp8."""

    @classmethod
    def parse(cls, name: str) -> Scheme:
        """The scheme called `name`; UserError names the rule and the value."""
        found = next((scheme for scheme in cls.every() if scheme.name == name), None)
        if found is None:
            *spelled, last = (row.spelled for row in WEIGHT_FORMATS.values())
            raise UserError(f"a scheme is {', '.join(spelled)} or {last}; got {name!r}")
        return found

    @classmethod
    def every(cls) -> Iterator[Scheme]:
        """All schemes that there are, in no order of preference."""
        for weights, row in WEIGHT_FORMATS.items():
            for group, symmetric, granularity, suffix in product(
                row.groups, row.symmetries, row.granularities, row.activations
            ):
                yield cls(weights, group, symmetric, suffix == "-a8", suffix == "-a16", granularity)

    @property
    def row(self) -> WeightFormat:
        """What all schemes of these weights have in common."""
        return WEIGHT_FORMATS[self.weights]

    @property
    def _activations(self) -> Activations:
        return "-a8" if self.int8_activations else "-a16" if self.int16_activations else ""

    def _spelled(self, group: str = "") -> str:
        symmetry = ("-sym" if self.symmetric else "-asym") if len(self.row.symmetries) > 1 else ""
        granularity = "" if self.granularity == "channel" else f"-{self.granularity}"
        return f"{self.weights}{group}{symmetry}{granularity}{self._activations}"

    @property
    def name(self) -> str:
        return self._spelled(f"-g{self.group_size}" if len(self.row.groups) > 1 else "")

    @property
    def variant(self) -> str:
        """The name under which kernels/formats/ knows it: group size is read from the shapes."""
        return self._spelled().replace("-", "_")

    @property
    def is_float(self) -> bool:
        """Whether weights are floats without scales."""
        return self.row.is_float

    @property
    def integer_activations(self) -> bool:
        """Whether activations are rounded to integers, of eight bits or sixteen, before they meet the weights."""
        return self.int8_activations or self.int16_activations

    @property
    def quantized_activations(self) -> bool:
        """Whether activations are rounded to eight bits, integer or float, before they meet the weights."""
        return self.int8_activations or self.row.rounds_activations

    @property
    def static_activations(self) -> bool:
        """Whether activations are rounded under a scale that calibration found, and not one of their own."""
        return self.granularity == "tensor"

    @property
    def weight_only(self) -> Scheme:
        """The same weights under activations that are not rounded to integers."""
        return replace(self, int8_activations=False, int16_activations=False)

    @property
    def storage(self) -> Scheme:
        """The scheme whose tensors this one reads on a CPU.

        4-bit codes lie the same for float and for int8 activations, those of 8 bits for int8 and for int16 ones.
        """
        read = self.row.reads.get(self._activations)
        return self if read is None else replace(self.weight_only, int8_activations=read == "-a8")

    @property
    def bits_per_weight(self) -> float:
        """Stored bits per weight, scales and zero points included (per-channel scales are negligible)."""
        row = self.row
        if not self.group_size:
            return row.code_bits
        return row.code_bits + (row.group_bits + (0 if self.symmetric else row.zero_bits)) / self.group_size

    def refusal(self, out_features: int, in_features: int) -> str | None:
        """Why a matrix of this shape cannot take this scheme, or None."""
        if self.group_size and in_features % self.group_size:
            return f"in_features {in_features} is not a multiple of group size {self.group_size}"
        if self.row.multiple is not None and in_features % self.row.multiple[0]:
            return f"in_features {in_features} is not a multiple of {self.row.multiple[0]}: {self.row.multiple[1]}"
        if self.integer_activations and in_features % 32:
            return f"in_features {in_features} is not a multiple of 32, the block of activation sums"
        return None


#: layer group -> scheme
Plan = Mapping[str, Scheme]


def plan_bytes(plan: Plan, shapes: Mapping[str, tuple[int, int]]) -> float:
    """Of all layer groups' weights under `plan`; `shapes` are (N, K)."""
    return sum(n * k * plan[group].bits_per_weight / 8 for group, (n, k) in shapes.items())
