"""Stage: which compile-time constants and which KV block size are fastest here. Legality first, then whole steps, measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

from optuna.distributions import CategoricalDistribution
from optuna.trial import create_trial

from artifacts.errors import UserError
from artifacts.precision import Plan, Scheme
from kernels import registry
from kernels.cpu.isa import Isa
from kernels.cpu.library import Library
from kernels.cpu.variants import Variants, build_variants, num_variant_units
from optimizer.measure.disturbance import Disturbance
from optimizer.measure.workbench import CpuWorkbench
from optimizer.measure.workload import Workload
from optimizer.records.ledger import Ledger, completed
from optimizer.records.plan_digest import plan_digest
from optimizer.records.progress import Reporter
from optimizer.records.record_key import record_key
from optimizer.tuning.race import Standings, race
from optimizer.tuning.steps import Alternative, PlanSteps
from optimizer.tuning.threads import Moment, decide
from optimizer.tuning.winner import Constants, Tuned
from search_spaces.schema import KernelSpace

#: candidate -> the alternatives that stand for it in a decode step and in the step of a prompt
Standing = tuple[int, int]


class KernelTuner:
    """Measures candidates on the model's own steps, so that caches, shapes and threads are those of service.

    `bench` runs the first candidate of every op of `spaces`.
    """

    def __init__(
        self,
        ledger: Ledger,
        reporter: Reporter,
        bench: CpuWorkbench,
        isa: Isa,
        spaces: Mapping[str, KernelSpace],
        plans: Sequence[Plan],
        workload: Workload,
        folder: Path,
    ) -> None:
        self._ledger, self._reporter, self._bench, self._isa = ledger, reporter, bench, isa
        self._plans, self._workload, self._folder = plans, workload, folder
        self._candidates = {op: legal_candidates(op, space, isa) for op, space in spaces.items()}
        self._variants = {op: _variants(op, some, workload) for op, some in self._candidates.items()}
        #: op -> the variant that won, for the ops tuned so far, and what its constants are
        self._winners: dict[str, int] = {}
        self._chosen: Constants = {}
        self._moments: list[Moment] = []

    def tune_op(self, op: str) -> Tuned:
        """The constants of `op`, those of ops tuned before being the winners, and those of others their first candidates."""
        candidates, (variants, standings) = self._candidates[op], self._variants[op]

        def alternatives() -> list[Alternative]:
            if len(variants) == 1:
                return [Alternative(self._bench)]
            return [Alternative(self._on_variants, {**self._winners, op: index}) for index in range(len(variants))]

        plans = self._plans_that_differ_in(self._bench, op)
        # What runs: the winners before this op, the first candidates behind it.
        bench = replace(self._bench, constants={**self._bench.constants, **self._chosen})
        tuned = self._raced(bench, op, candidates, plans, standings, alternatives, f"tiles of {op}")
        self._winners[op] = standings[candidates.index(tuned.chosen)][1]
        self._chosen |= tuned.chosen
        return tuned

    @cached_property
    def _on_variants(self) -> CpuWorkbench:
        """The workbench on a library with variants of all ops that have several candidates: compiled once, on all cores."""
        ops = {}
        for op, (constants, _) in self._variants.items():
            if len(constants) > 1:
                symbols = sorted({symbol for plan in self._plans for symbol in _symbols(self._bench, plan, op)})
                ops[op] = Variants(constants, symbols)
        first = {name: value for candidates in self._candidates.values() for name, value in candidates[0].items()}
        with self._reporter.task("compiling candidates", num_variant_units(ops)) as advance:
            path = build_variants(ops, first, self._folder / "candidates.so", self._isa, on_compiled=advance)
        return replace(self._bench, library=Library(path))

    def tune_block_size(self, bench: CpuWorkbench, sizes: Sequence[int]) -> Tuned:
        """The KV block size, in tokens."""

        def alternatives() -> list[Alternative]:
            return [Alternative(replace(bench, kv_block_size=size)) for size in sizes]

        candidates = [{"kv_block_size": size} for size in sizes]
        plans = self._plans_that_differ_in(bench, "paged_attention")
        each = [(index, index) for index in range(len(sizes))]
        return self._raced(bench, "kv_block_size", candidates, plans, each, alternatives, "KV block size")

    def add_thread_moment(self, bench: CpuWorkbench, counts: Sequence[int]) -> None:
        """One more moment in which numbers of threads meet, on another plan than the last one."""
        number = len(self._moments)
        if len(counts) == 1:
            return

        def measure() -> dict[str, Any]:
            with self._reporter.task(f"measuring number of threads, moment {number + 1}", 2) as advance:
                alternatives = [Alternative(replace(bench, num_threads=count)) for count in counts]
                steps = PlanSteps(self._plans[number % len(self._plans)], alternatives, self._workload)
                disturbance = Disturbance()
                _, decode_again = steps.measure("decode", range(len(counts)))
                advance()
                _, prompt_again = steps.measure("prefill", range(len(counts)))
                ms = [steps.ms("decode", i) + steps.prompt_ms(steps.ms("prefill", i)) for i in range(len(counts))]
                advance()
            return asdict(Moment(tuple(ms), decode_again + steps.prompt_ms(prompt_again), disturbance.share()))

        plan = plan_digest(self._plans[number % len(self._plans)])
        of = {"timing": bench.timing, "counts": counts, "plan": plan, "workload": self._workload}
        record = self._ledger.once(record_key(f"kernels/num_threads/moment {number}", **of), measure)
        self._moments.append(Moment(**{**record, "ms": tuple(record["ms"])}))

    def tune_num_threads(self, counts: Sequence[int]) -> Tuned:
        """How many threads run a step, by the moments there were."""
        candidates = [{"num_threads": count} for count in counts]
        if len(counts) == 1:
            return Tuned("num_threads", tuple(candidates), (0.0,), candidates[0])
        decision = decide(self._moments)
        self._reporter.say(f"number of threads: {counts[decision.chosen]}; {decision.reason}")
        key = record_key("kernels/num_threads", moments=self._moments)
        return self._tuned(key, "num_threads", candidates, decision.ms, decision.chosen, decision.noise)

    def _plans_that_differ_in(self, bench: CpuWorkbench, op: str) -> list[Plan]:
        """One plan for each set of `op`'s entry points that the plans call: attention runs the same code under all of them."""
        return list({_symbols(bench, plan, op): plan for plan in self._plans}.values())

    def _raced(
        self,
        bench: CpuWorkbench,
        subject: str,
        candidates: Sequence[Constants],
        plans: Sequence[Plan],
        standings: Sequence[Standing],
        alternatives: Callable[[], Sequence[Alternative]],
        title: str,
    ) -> Tuned:
        """One record for all candidates, since they were measured side by side; `bench` has what they do not change."""

        def measure() -> dict[str, Any]:
            found = alternatives()
            every = [PlanSteps(plan, found, self._workload) for plan in plans]
            self_differences: list[float] = []

            def measure_pass(running: Sequence[int]) -> Standings:
                first = again = 0.0
                of_decode, of_prompt = (list(dict.fromkeys(standings[i][phase] for i in running)) for phase in (0, 1))
                what = f"measuring {title}, {len(running)} left, pass {len(self_differences) + 1}"
                for steps in self._reporter.track(every, what, len(every)):
                    one, other = steps.measure("decode", of_decode)
                    of_one_prompt, of_other_prompt = steps.measure("prefill", of_prompt)
                    first += one + steps.prompt_ms(of_one_prompt)
                    again += other + steps.prompt_ms(of_other_prompt)
                    steps.release()
                for i in running:
                    decode, prompt = standings[i]
                    ms[i] = sum(s.ms("decode", decode) + s.prompt_ms(s.ms("prefill", prompt)) for s in every)
                self_differences.append(abs(again / first - 1))
                return Standings(tuple(ms), tuple(self_differences))

            ms = [0.0] * len(candidates)
            return asdict(race(len(candidates), measure_pass))

        digests = [plan_digest(plan) for plan in plans]
        of = {"timing": bench.timing, "candidates": candidates, "plans": digests, "workload": self._workload}
        key = record_key(f"kernels/{subject}", **of)
        record = self._ledger.once(key, measure)
        if len(candidates) > 1:
            chosen = ", ".join(f"{name} {value}" for name, value in candidates[record["winner"]].items())
            self._reporter.say(f"{title}: {chosen}; the same candidate differs from itself by {record['noise']:.1%}")
        return self._tuned(key, subject, candidates, record["ms"], record["winner"], record["noise"])

    def _tuned(
        self, key: str, subject: str, candidates: Sequence[Constants], ms: Sequence[float], chosen: int, noise: float | None
    ) -> Tuned:
        """Also one Optuna study, under `key`, with a trial for each candidate."""
        study = self._ledger.study(key)
        values = {name: sorted({c[name] for c in candidates}) for name in candidates[0]}
        space = {name: CategoricalDistribution(choices) for name, choices in values.items()}
        num_known = len(completed(study))  # fewer than all where a run was killed while it wrote them
        for candidate, value in zip(candidates[num_known:], ms[num_known:], strict=True):
            study.add_trial(create_trial(params=dict(candidate), distributions=dict(space), value=value))
        return Tuned(subject, tuple(candidates), tuple(ms), candidates[chosen], noise)


def _variants(op: str, candidates: Sequence[Constants], workload: Workload) -> tuple[list[Constants], list[Standing]]:
    """Constants to compile so that each candidate's steps can be measured, and which of them stand for it in either phase.

    A constant that a phase's calls do not read has the first candidate's value there, so that few are compiled and measured.
    In the step of a prompt one call may have a single token, the head's: it weighs nothing per output token.
    """
    of_one = registry.tunings()[op].of_one_token
    of_several = set(candidates[0]) - of_one
    of_decode = of_one if of_one and workload.concurrency == 1 else of_several
    variants: list[Constants] = []
    standings: list[Standing] = []
    for candidate in candidates:
        stand = []
        for names in (of_decode, of_several):
            variant = {**candidates[0], **{name: candidate[name] for name in names}}
            if variant not in variants:
                variants.append(variant)
            stand.append(variants.index(variant))
        standings.append((stand[0], stand[1]))
    return variants, standings


def legal_candidates(op: str, space: KernelSpace, isa: Isa) -> list[Constants]:
    """The combinations of `space` that are legal on `isa`, in order of preference. UserError if there is none."""
    tuning, names = registry.tunings()[op], list(space.constants)
    combinations = (dict(zip(names, values, strict=True)) for values in product(*space.constants.values()))
    candidates = [c for c in combinations if tuning.refusal({**tuning.default(isa), **c}, isa) is None]
    if not candidates:
        raise UserError(f"the search space of {op} has no combination that is legal on {isa.name}; widen {names}")
    return candidates


def _symbols(bench: CpuWorkbench, plan: Plan, op: str) -> frozenset[str]:
    """The entry points of `op` that a step of `plan` calls."""
    return frozenset(symbol for symbol in bench.symbols(plan) if registry.spec(symbol).op == op)


def tuning_plans(
    offered: Mapping[str, Sequence[Scheme]], shapes: Mapping[str, tuple[int, int]], baseline: Scheme
) -> list[Plan]:
    """Uniform plans on which constants are measured: for each family of kernels, the first of its schemes that is offered."""
    families: dict[tuple[str, bool, bool], Scheme] = {}
    for schemes in offered.values():
        for scheme in schemes:
            families.setdefault((scheme.weights, scheme.int8_activations, scheme.int16_activations), scheme)
    quantized = [scheme for scheme in families.values() if not scheme.is_float]
    return [
        {group: scheme if scheme.refusal(*shape) is None else baseline for group, shape in shapes.items()}
        for scheme in quantized or families.values()
    ]
