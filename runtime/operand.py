"""What a matmul on a CPU takes for its left side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, cast

from artifacts.precision import Scheme
from kernels.spec import Arguments, Array

#: which counter each variable axis follows, unless a call says otherwise
TOKENS: Mapping[str, str] = {"T": "num_tokens"}


class Operand(NamedTuple):
    """`x` or its integer codes, and the counters of its rows."""

    parts: Arguments
    counters: Mapping[str, str]

    @property
    def x(self) -> Array:
        return cast(Array, self.parts["x"])


def as_operand(codes: Arguments, counters: Mapping[str, str]) -> Operand:
    """Of what quantize_activations writes."""
    return Operand({f"x_{name}": array for name, array in codes.items()}, counters)


def rows_per_token(scheme: Scheme) -> int:
    """Of integer activations: the high and the low bytes of 16 bits are rows of their own."""
    return 2 if scheme.int16_activations else 1
