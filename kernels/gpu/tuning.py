"""What a GPU kernel leaves open: its parameters, which combinations are legal, and one that does well unmeasured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import TypeAlias

from kernels.gpu.launch import Problem
from kernels.gpu.target import Target
from kernels.refusal import Refusal

#: parameter -> value; `num_warps` and `num_stages` are parameters like others
Point: TypeAlias = Mapping[str, int]


@dataclass(frozen=True)
class GpuTuning:
    """The open parameters of one op.

    `parameters` gives each parameter of an entry point (a symbol) its values; `refusal` says why a point is not legal for a
    problem on a target, or None; `default` is a legal point. Legal means: it compiles, launches and is right.
    """

    parameters: Callable[[str], Mapping[str, tuple[int, ...]]]
    refusal: Callable[[Problem, Point, Target], str | None]
    default: Callable[[Problem, Target], Point]

    def candidates(self, problem: Problem, target: Target) -> Iterator[dict[str, int]]:
        """Every legal point, in the order of `parameters`."""
        parameters = self.parameters(problem.symbol)
        for values in product(*parameters.values()):
            point = dict(zip(parameters, values, strict=True))
            if self.refusal(problem, point, target) is None:
                yield point

    def checked(self, problem: Problem, point: Point, target: Target) -> dict[str, int]:
        """`point` if it is legal; Refusal with the rule that it breaks."""
        parameters = self.parameters(problem.symbol)
        if point.keys() != parameters.keys():
            raise Refusal(f"{problem.symbol} is tuned by {', '.join(parameters)}; got {', '.join(point) or 'none of them'}")
        for name, value in point.items():
            if value not in parameters[name]:
                raise Refusal(f"{name} of {problem.symbol} must be one of {parameters[name]}, got {value}")
        if reason := self.refusal(problem, point, target):
            raise Refusal(f"{dict(point)} is not legal for {problem.symbol} on {target.arch.name}: {reason}")
        return dict(point)
