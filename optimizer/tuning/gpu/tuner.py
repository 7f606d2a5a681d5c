"""Stage: at which point every kind of call runs. Legality and the time model choose what is compiled, machine code decides."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import chain, islice
from typing import Any

from artifacts.errors import UserError
from kernels.compile.cross_compile import CrossCompiler, KernelCompileFailed, compiler_versions, gpu_sources_digest
from kernels.compile.static_record import StaticRecord
from kernels.gpu.kernel_source import kernel_sources
from kernels.gpu.launch import Problem
from kernels.gpu.points import point_key
from kernels.gpu.target import Target
from kernels.registry import plan_call, spec
from optimizer.cost.gpu.facts import gpu_facts
from optimizer.records.ledger import Ledger
from optimizer.records.progress import Reporter
from optimizer.records.record_key import record_key
from optimizer.tuning.gpu.compiled import CompiledKernels, Known
from optimizer.tuning.gpu.inputs import sample_tensors
from optimizer.tuning.gpu.measurement import Measurer, measurer_for
from optimizer.tuning.gpu.memory_model import main_launch
from optimizer.tuning.gpu.ranking import Ranked, Ranker
from optimizer.tuning.gpu.tuned_call import StaticSummary, TunedCall
from optimizer.tuning.gpu.verdict import judge, unfit
from optimizer.tuning.winner import winner
from search_spaces.schema import Device, KernelSpace

#: How often the next candidates are compiled for a call whose first ones were all refused.
_ROUNDS = 4


class NoKernelFits(UserError):
    """A call that no point of the search space serves: none is legal, or none that was compiled is fit to run."""


@dataclass(frozen=True)
class _Survivor:
    """A point whose kernels compiled and are fit to run, and its time by what they say of themselves."""

    ranked: Ranked
    time_us: float
    summary: StaticSummary


@dataclass
class _Call:
    """The calls of one key, and how far their tuning has come."""

    key: str
    problems: Sequence[Problem]
    candidates: Iterator[Ranked]
    num_candidates: int
    survivors: list[_Survivor] = field(default_factory=list)
    reserved: list[_Survivor] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    @property
    def largest(self) -> Problem:
        return self.problems[0]


class GpuTuner:
    """Tunes the calls of a model for `device`. `context_tokens` is the mean context of a decoding sequence.

    `spaces` is by op; what a space leaves out stays at the op's default. Nothing here needs the device; where it is there
    (`measurer_for`, or a `measurer` that is given) the compiled candidates are measured.
    """

    def __init__(
        self,
        device: Device,
        target: Target,
        spaces: Mapping[str, KernelSpace],
        compiler: CrossCompiler,
        ledger: Ledger,
        reporter: Reporter,
        context_tokens: int = 1024,
        measurer: Measurer | None = None,
    ) -> None:
        self._device, self._gpu, self._target = device, gpu_facts(device), target
        self._spaces, self._ledger, self._reporter = spaces, ledger, reporter
        self._context_tokens = context_tokens
        self._measurer = measurer or measurer_for(target)
        self._ranker = Ranker(self._gpu, target, spaces, context_tokens)
        self._kernels = CompiledKernels(compiler, reporter)
        self._sources = gpu_sources_digest()
        self._times: dict[str, float] = {}

    def time_us(self, problem: Problem) -> float:
        """Microseconds of `problem` at its best legal point, modelled: nothing is compiled. NoKernelFits if none is legal."""
        key = _described(problem)
        if key not in self._times:
            first = next(self._ranker.ranked(problem), None)
            if first is None:
                raise self._no_legal_point(problem)
            self._times[key] = first.time_us
        return self._times[key]

    def ranked(self, problem: Problem) -> list[Ranked]:
        """Every legal point of the space, by modelled time."""
        return list(self._ranker.ranked(problem))

    def tune(self, problems: Sequence[Problem], top_k: int = 3) -> dict[str, TunedCall]:
        """The point of every kind of call (`point_key`): legal for all `problems` of the kind, modelled on the largest.

        The `top_k` best are compiled, those of all kinds together. What spills, does not launch or lacks the wgmma that its
        time takes for granted is refused; of the rest times are modelled again with what the machine code says, and near-ties
        go to the space's order. Every decision is a record of the ledger. NoKernelFits names the call and the reasons.
        """
        groups = _by_key(problems)

        @cache
        def calls() -> Mapping[str, _Call]:
            return self._compiled(groups, top_k)

        def decide(key: str) -> dict[str, Any]:
            return self._chosen(calls()[key]).to_json()

        return {
            key: TunedCall.from_json(self._ledger.once(self._record_key(key, group, top_k), partial(decide, key)))
            for key, group in groups.items()
        }

    def tune_kv_block_size(
        self,
        make_problems: Callable[[int], Sequence[Problem]],
        sizes: Sequence[int],
        weight: Callable[[Problem], float] = lambda problem: 1.0,
    ) -> tuple[int, dict[int, float]]:
        """The KV block size together with the points of the calls that depend on it; and the modelled time for every size.

        `make_problems` gives the calls of a step at a block size, `weight` how often each is made for one that decodes. A size
        costs what its calls take at their best points. Near-ties go to the order of `sizes`, that of the search space.
        """
        times_us = {size: sum(weight(problem) * self.time_us(problem) for problem in make_problems(size)) for size in sizes}
        return winner(sizes, times_us.values()), times_us

    def _compiled(self, groups: Mapping[str, Sequence[Problem]], top_k: int) -> Mapping[str, _Call]:
        calls = {key: self._call(key, group) for key, group in groups.items()}
        pending = list(calls.values())
        for _ in range(_ROUNDS):
            batch = [(call, candidate) for call in pending for candidate in islice(call.candidates, top_k)]
            if not batch:
                break
            self._judge(batch)
            pending = [call for call in pending if not call.survivors]
        return calls

    def _call(self, key: str, problems: Sequence[Problem]) -> _Call:
        candidates = self._ranker.ranked(problems[0], problems[1:])
        first = next(candidates, None)
        if first is None:
            raise self._no_legal_point(problems[0])
        seen, _ = self._ranker.grids(problems[0])
        return _Call(key, problems, chain([first], candidates), len(seen))

    def _judge(self, batch: Sequence[tuple[_Call, Ranked]]) -> None:
        """Compile the candidates and sort them into those that are fit to run, fit with a reservation, and refused."""
        plans = [[plan_call(problem, self._target, ranked.point) for problem in call.problems] for call, ranked in batch]
        sources = [
            [
                list(kernel_sources(plan, problem, self._target.arch.name))
                for problem, plan in zip(call.problems, each, strict=True)
            ]
            for (call, _), each in zip(batch, plans, strict=True)
        ]
        records = self._kernels.records([source for each in sources for of_plan in each for source in of_plan])
        for (call, ranked), each, needed in zip(batch, plans, sources, strict=True):
            launches = each[0].launches
            main = main_launch(launches)
            found = [records[source.identity] for of_plan in needed for source in of_plan]
            refusal = next(filter(None, map(self._refusal, found)), None)
            if refusal is None:
                record = records[needed[0][main].identity]
                assert isinstance(record, StaticRecord)
                model = self._ranker.model(call.largest)
                modelled = model.modelled(call.largest, ranked.point)
                verdict = judge(record, launches[main], modelled, self._gpu, self._target)
                refusal = verdict.refusal
            if refusal is not None:
                call.reasons.append(f"{dict(ranked.point)}: {refusal}")
                continue
            time_us = model.modelled(call.largest, ranked.point, verdict.facts).time_us
            survivor = _Survivor(ranked, time_us, verdict.summary)
            (call.reserved if verdict.reservation else call.survivors).append(survivor)

    def _refusal(self, record: Known) -> str | None:
        return str(record) if isinstance(record, KernelCompileFailed) else unfit(record, self._target)

    def _chosen(self, call: _Call) -> TunedCall:
        survivors = call.survivors or call.reserved
        if not survivors:
            raise NoKernelFits(
                f"of {len(call.reasons)} compiled points for {call.key} none is fit to run; change the search space of "
                f"{spec(call.largest.symbol).op}. " + "; ".join(call.reasons)
            )
        ordered = sorted(survivors, key=lambda survivor: survivor.ranked.order)
        times_us = self._measured(call, ordered) if self._measurer else [survivor.time_us for survivor in ordered]
        best = winner(range(len(ordered)), times_us)
        others = times_us[:best] + times_us[best + 1 :]
        return TunedCall(
            key=call.key,
            symbol=call.largest.symbol,
            point=dict(ordered[best].ranked.point),
            time_us=times_us[best],
            measured=self._measurer is not None,
            num_candidates=call.num_candidates,
            margin=min(others) / times_us[best] - 1 if others else 0.0,
            record=ordered[best].summary,
        )

    def _measured(self, call: _Call, survivors: Sequence[_Survivor]) -> list[float]:
        """Microseconds of each on the device, for the largest of the calls."""
        assert self._measurer is not None
        plans = [plan_call(call.largest, self._target, survivor.ranked.point) for survivor in survivors]
        sources = [source for plan in plans for source in kernel_sources(plan, call.largest, self._target.arch.name)]
        tensors = sample_tensors(call.largest, self._context_tokens, self._measurer.device)
        return self._measurer.times_us(plans, self._kernels.frozen(sources), tensors)

    def _no_legal_point(self, problem: Problem) -> NoKernelFits:
        op = spec(problem.symbol).op
        return NoKernelFits(
            f"no point of the search space of {op} is legal for {point_key(problem)} on {self._gpu.name}, "
            f"mostly because {self._ranker.refusals(problem)}; widen the space"
        )

    def _record_key(self, key: str, group: Sequence[Problem], top_k: int) -> str:
        op = spec(group[0].symbol).op
        return record_key(
            f"gpu/{self._gpu.name}/{key}",
            device=self._device,
            compiler=compiler_versions(),
            sources=self._sources,
            space=self._spaces.get(op),
            context_tokens=self._context_tokens,
            top_k=top_k,
            measured=self._measurer is not None,
            problems=[_described(problem) for problem in group],
        )


def _by_key(problems: Sequence[Problem]) -> dict[str, list[Problem]]:
    """Distinct problems by `point_key`, the largest of each first."""
    distinct = {_described(problem): problem for problem in problems}
    groups: dict[str, list[Problem]] = {}
    for description in sorted(distinct):
        groups.setdefault(point_key(distinct[description]), []).append(distinct[description])
    return {key: sorted(group, key=_size, reverse=True) for key, group in sorted(groups.items())}


def _size(problem: Problem) -> tuple[int, float]:
    return sum(tensor.nbytes for tensor in problem.tensors.values()), float(problem.scalars.get("max_query_len", 0))


def _described(problem: Problem) -> str:
    """All that planners and time models see of a problem."""
    tensors = ((name, tensor.dtype, tensor.shape, tensor.strides) for name, tensor in sorted(problem.tensors.items()))
    return f"{problem.symbol}{list(tensors)}{sorted(problem.scalars.items())}"
