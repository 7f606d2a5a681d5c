"""Legal points of a space in the order of their modelled time, found without asking about more of them than needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from artifacts.errors import UserError
from kernels.gpu.launch import Problem
from kernels.gpu.target import Target
from kernels.gpu.tuning import Point
from kernels.registry import gpu_tuning, ops, spec, specs
from optimizer.cost.gpu.facts import GpuFacts
from optimizer.cost.gpu.pipes import Array
from optimizer.tuning.gpu.attention_model import LatentAttentionModel, PagedAttentionModel
from optimizer.tuning.gpu.grid import PointGrid
from optimizer.tuning.gpu.matmul_model import MatmulModel
from optimizer.tuning.gpu.memory_model import MemoryModel
from optimizer.tuning.gpu.sampled import LARGEST_GRID, sampled
from optimizer.tuning.gpu.time_model import TimeModel
from search_spaces.schema import KernelSpace

_MATMUL_OPS = ("quant_matmul", "scaled_matmul", "head_matmul")
_MATMUL_SYMBOLS = ("gpu_moe_logits",)


@dataclass(frozen=True)
class Ranked:
    """A legal point and its modelled time. `order` is its place in the search space, which breaks ties."""

    point: Mapping[str, int]
    time_us: float
    order: int


class Ranker:
    """Ranks the points of every op's space, for one GPU.

    Times of all points are computed at once (numpy), sorted, and only then is each asked whether it is legal: best first, until
    enough are. A rule of legality costs ten times what a time does, and a caller seldom wants more than the first few.
    """

    def __init__(self, gpu: GpuFacts, target: Target, spaces: Mapping[str, KernelSpace], context_tokens: int) -> None:
        for op, space in spaces.items():
            _check(op, space)
        self._target, self._spaces = target, spaces
        self._matmul = MatmulModel(gpu)
        self._paged = PagedAttentionModel(gpu, target, context_tokens)
        self._latent = LatentAttentionModel(gpu, context_tokens)
        self._memory = MemoryModel(gpu, target, context_tokens)

    def model(self, problem: Problem) -> TimeModel:
        op = spec(problem.symbol).op
        if op in _MATMUL_OPS or problem.symbol.startswith("gpu_moe_matmul") or problem.symbol in _MATMUL_SYMBOLS:
            return self._matmul
        attention: Mapping[str, TimeModel] = {"paged_attention": self._paged, "mla_attention": self._latent}
        return attention.get(op, self._memory)

    def grids(self, problem: Problem) -> tuple[PointGrid, PointGrid]:
        """The points that the model tells apart, and what it is blind to, the op's default first."""
        op = spec(problem.symbol).op
        tuning = gpu_tuning(op)
        default = tuning.default(problem, self._target)
        space = self._spaces.get(op, _NOTHING)
        grid = PointGrid.of(space, tuning.parameters(problem.symbol), default)
        blind = self.model(problem).blind
        return grid.only(lambda name: name not in blind), grid.only(lambda name: name in blind).led_by(default)

    def ranked(self, problem: Problem, alike: Sequence[Problem] = ()) -> Iterator[Ranked]:
        """Points that are legal for `problem` and for all that are `alike`, fastest first; lazily.

        Equal times are in the space's order. Of points that the model cannot tell apart only one is given: the first legal one,
        the op's default leading.
        """
        seen, unseen = self.grids(problem)
        problems = (problem, *alike)
        if len(seen) > LARGEST_GRID:
            yield from self._sampled(problems, seen, unseen)
            return
        times = self.model(problem).times_us(problem, seen)
        for index in np.lexsort((quantized(times),)).tolist():
            if not np.isfinite(times[index]):
                return
            if point := self._legal(problems, seen.point(index), unseen):
                yield Ranked(point, float(times[index]), index)

    def _legal(self, problems: Sequence[Problem], seen: Point, unseen: PointGrid) -> Point | None:
        """The first completion of a point that is legal for all problems."""
        refusal = gpu_tuning(spec(problems[0].symbol).op).refusal
        points = ({**seen, **unseen.point(index)} for index in range(len(unseen)))
        return next((p for p in points if all(refusal(each, p, self._target) is None for each in problems)), None)

    def _sampled(self, problems: Sequence[Problem], seen: PointGrid, unseen: PointGrid) -> Iterator[Ranked]:
        model = self.model(problems[0])

        def time_us(part: dict[str, int]) -> float | None:
            point = self._legal(problems, part, unseen)
            return None if point is None else model.modelled(problems[0], point).time_us

        for time, part in sampled(seen, time_us):
            point = self._legal(problems, part, unseen)
            assert point is not None
            yield Ranked(point, time, seen.index(part))

    def refusals(self, problem: Problem) -> str:
        """Why no point is legal: the commonest reason."""
        refusal, (seen, unseen) = gpu_tuning(spec(problem.symbol).op).refusal, self.grids(problem)
        reasons = [refusal(problem, seen.point(index) | unseen.point(0), self._target) for index in range(len(seen))]
        found = [reason for reason in reasons if reason is not None]
        return max(sorted(set(found)), key=found.count, default="the time model knows no point that can run")


def quantized(times: Array) -> Array:
    """Times whose order is the same on every machine: what differs by less than a millionth is equal."""
    return np.round(np.log(times) * 1e6)


def _check(op: str, space: KernelSpace) -> None:
    """UserError for a parameter, or a value of one, that no kernel of `op` has."""
    if op not in ops("gpu"):
        raise UserError(f"kernels of a GPU's search space are of one of {', '.join(ops('gpu'))}; got {op!r}")
    known: dict[str, set[int]] = {}
    for symbol in (symbol for symbol, found in specs("gpu").items() if found.op == op):
        for name, values in gpu_tuning(op).parameters(symbol).items():
            known.setdefault(name, set()).update(values)
    for name, offered in space.constants.items():
        if name not in known:
            raise UserError(f"{op} is tuned by {', '.join(known) or 'nothing'}; its search space has {name!r}, remove it")
        if wrong := sorted(set(offered) - known[name]):
            raise UserError(f"{name} of {op} is one of {sorted(known[name])}; its search space has {wrong[0]}, remove it")


_NOTHING = KernelSpace(constants={})
