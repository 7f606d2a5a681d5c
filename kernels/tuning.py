"""What a kernel leaves open until it is built: compile-time constants, their values, and which combinations are legal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product

from kernels.cpu.isa import Isa
from kernels.refusal import Refusal

Constants = Mapping[str, int]


@dataclass(frozen=True)
class Tuning:
    """The open constants of one op.

    `values` maps each constant (a C macro) to its legal values; `refusal` says why a combination is not legal for an
    instruction set, or None; `default` is a legal combination that does well without measurement. Calls on a single token
    read the constants `of_one_token` and no others, which calls on several do not read; empty where all calls read all.
    """

    values: Mapping[str, tuple[int, ...]]
    refusal: Callable[[Constants, Isa], str | None]
    default: Callable[[Isa], Constants]
    of_one_token: frozenset[str] = frozenset()

    def candidates(self, isa: Isa) -> list[dict[str, int]]:
        """Every legal combination, in the order of `values`."""
        every = (dict(zip(self.values, combination, strict=True)) for combination in product(*self.values.values()))
        return [constants for constants in every if self.refusal(constants, isa) is None]

    def checked(self, constants: Constants, isa: Isa) -> dict[str, int]:
        """The default, changed by those of `constants` that are this op's; Refusal where the outcome is not legal."""
        chosen = {**self.default(isa), **{name: constants[name] for name in self.values if name in constants}}
        for name, value in chosen.items():
            if value not in self.values[name]:
                raise Refusal(f"{name} must be one of {self.values[name]}, got {value}")
        if reason := self.refusal(chosen, isa):
            raise Refusal(f"{chosen} is not legal on {isa.name}: {reason}")
        return chosen
