"""The whole run: a model and its model.yaml in, the facts of a proven bundle out. Each stage's results are records."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from artifacts.manifest import Serving
from artifacts.precision import KvDtype, Plan, Scheme
from kernels.cpu.build import NoCompiler, build, find_compiler, num_units, resolve_constants, sources_digest
from kernels.cpu.host import host
from kernels.cpu.isa import best_isa
from kernels.cpu.library import Library
from optimizer.cost.measured import measure_costs
from optimizer.cost.provider import CostProvider
from optimizer.cost.workload import Workload, decode_spans, prefill_spans, resolve_workload
from optimizer.evaluation import Estimate, Evaluation, Gate
from optimizer.forged import Forged
from optimizer.importers import open_source
from optimizer.ledger import Ledger
from optimizer.progress import Reporter
from optimizer.quantized_store import QuantizedStore
from optimizer.search.accuracy import Judge, trial_score
from optimizer.search.bands import Band, fitting_schemes, kind_of, make_bands, plan_of
from optimizer.search.precision import PrecisionSearch, Trial
from optimizer.search.proof import NUM_PAIRS, NothingPasses, PairedSpeed, Proven, finalists, measure_pair, prove
from optimizer.search.sensitivity import Probes, Sensitivities, measure_sensitivities, predict_kl
from optimizer.search.serving import StepTime, tune_serving
from optimizer.search.texts import TextSets, read_texts, sample_sequences
from optimizer.search.warm_start import Choice, trade_off_choices, uniform_choices
from optimizer.spec import ModelSpec
from optimizer.tuning.kernels import Constants, KernelTuner, Tuned, tuning_plans
from optimizer.tuning.timing import interleaved_ms, typical_ms
from optimizer.workbench import Workbench
from runtime.batch import build_batch
from search_spaces.space import load_space

SAMPLED = "sampled"
#: KL that a KV cache dtype may cost alone, as a part of the gate's limit (or of 0.05 nats if there is none)
_KV_SHARE = 0.02
_SAMPLING_SEQS = 16


class Forge:
    """Runs the stages in order. `workspace` keeps the study, quantized weights and compiled kernels of the run."""

    def __init__(self, spec: ModelSpec, workspace: Path, reporter: Reporter) -> None:
        self._spec, self._reporter = spec, reporter
        self._space = load_space(spec.search.space)
        self._source = open_source(spec.source)
        self._sources = self._source.sha256()
        self._architecture = self._source.architecture
        self._shapes = self._architecture.linear_shapes()
        kinds = dict.fromkeys(map(kind_of, self._shapes))
        self._offered = fitting_schemes(self._shapes, {kind: self._space.precision.groups.of(kind) for kind in kinds})
        self._isa = best_isa(host())
        self._compiler = _compiler_version()
        self.study_name = f"{spec.name}-{self._digest()[:16]}"
        self._folder = workspace / self.study_name
        self._folder.mkdir(parents=True, exist_ok=True)
        self._ledger = Ledger(spec.search.storage or f"sqlite:///{workspace}/study.db", self.study_name)
        self._store = QuantizedStore(self._source, self._folder / "weights")
        # What holds the checkpoint without loss: bf16 for bf16 weights, fp32 for all others.
        is_bf16 = all(self._source.tensor(f"{group}.weight").dtype == torch.bfloat16 for group in self._shapes)
        self._baseline_scheme = Scheme("bf16" if is_bf16 else "fp32")
        self._baseline: Plan = dict.fromkeys(self._shapes, self._baseline_scheme)
        self._gate = Gate(**spec.gate.model_dump())

    def run(self) -> Forged:
        """Every stage; NothingPasses if no plan is within the gate."""
        say = self._reporter.say
        say(f"{self._spec.name}: {self._architecture.family}, {self._isa.name}, study {self.study_name}")
        untuned = self._workbench(self._library({}), self._space.precision.kv_cache[0])
        texts = self._texts(untuned)
        judge = self._judge(untuned, texts.search)
        kv_dtype = self._choose_kv_dtype(judge)
        workload = self._workload(replace(untuned, kv_dtype=kv_dtype))
        say(f"workload: {workload.prompt_tokens} tokens in, {workload.output_tokens} out, {workload.concurrency} at once")
        constants, block_size, tuned = self._tune_kernels(replace(untuned, kv_dtype=kv_dtype), workload)
        workbench = replace(self._workbench(self._library(constants), kv_dtype), kv_block_size=block_size)

        schemes = list(dict.fromkeys([self._baseline_scheme, *(s for kind in self._offered.values() for s in kind)]))
        cost = measure_costs(self._ledger, self._reporter, workbench, schemes, self._baseline_scheme, workload)
        judge = replace(judge, workbench=workbench)
        sensitivities = measure_sensitivities(self._ledger, self._reporter, self._offered, self._shapes, judge.probe_kl)
        bands = self._bands(sensitivities)
        trials = self._search(bands, sensitivities, cost, judge)
        proven = self._prove(trials, bands, workbench, texts.proof)
        plan = plan_of(bands, proven.trial.choice)
        serving, surface = self._serving(workbench, plan, workload)
        return Forged(
            spec=self._spec,
            source=self._source,
            sources=self._sources,
            study_name=self.study_name,
            isa=self._isa.name,
            baseline=self._baseline_scheme,
            kv_dtype=kv_dtype,
            workbench=workbench,
            constants=constants,
            compiler=None if workbench.library is None else self._compiler,
            tuned=tuned,
            workload=workload,
            sensitivities=sensitivities,
            trials=tuple(trials),
            proven=proven,
            plan={group: plan[group] for group in self._shapes},
            serving=serving,
            surface=tuple(surface),
            decode_speed=self._paired("decode", workbench, plan, workload, None),
            prefill_speed=self._paired("prefill", workbench, plan, workload, workload.prompt_tokens),
        )

    def _digest(self) -> str:
        # Measurements hold for one machine, one compiler and one version of the code: all are part of a study's identity.
        machine = [self._compiler, self._isa.name, host().model, host().num_cores]
        code = [version("coldforge"), sources_digest()]
        identity = [self._spec.digest(self._sources), self._space.model_dump_json(), machine, code]
        return hashlib.sha256(repr(identity).encode()).hexdigest()

    def _workbench(self, library: Library | None, kv_dtype: KvDtype) -> Workbench:
        block_size = self._space.serving.kv_block_size[0]
        return Workbench(self._architecture, self._store, library, host().num_cores, kv_dtype, block_size)

    def _library(self, constants: Constants) -> Library | None:
        try:
            with self._reporter.task("compiling kernels", num_units()) as advance:
                return Library(build(constants, self.library_path, self._isa, on_compiled=advance))
        except NoCompiler as error:
            self._reporter.say(f"{error}. Going on with the portable references, which are slow and need torch to serve.")
            return None

    @property
    def library_path(self) -> Path:
        """The shared library that was built last: the bundle's, once `run` is through."""
        return self._folder / "kernels" / "cpu.so"

    def _texts(self, workbench: Workbench) -> TextSets:
        """The user's files; without any, sequences that the unquantized model wrote."""
        evaluation = self._spec.evaluation
        tokenizer = Tokenizer.from_str(self._source.tokenizer_json)
        prefix = tokenizer.encode("").ids
        if evaluation.text:
            return read_texts(evaluation, tokenizer, prefix)

        def sample() -> list[list[int]]:
            num_tokens = min(evaluation.tokens_per_sequence, self._architecture.max_position)
            runner = workbench.runner(
                self._baseline, max(_SAMPLING_SEQS, 64), _SAMPLING_SEQS * (num_tokens + workbench.kv_block_size), _SAMPLING_SEQS
            )
            start = prefix[0] if prefix else self._start_token()
            return sample_sequences(runner, start, 2 * evaluation.num_sequences, num_tokens, self._spec.seed, self._reporter)

        sequences = self._ledger.once("texts/sampled", sample)
        return TextSets({SAMPLED: sequences[0::2]}, {SAMPLED: sequences[1::2]})

    def _start_token(self) -> int:
        """What a text begins with for a model whose tokenizer adds nothing: its BOS, or its EOS, which separates texts."""
        for key in ("bos_token_id", "eos_token_id"):
            token = self._source.generation_config.get(key)
            token = token[0] if isinstance(token, list) and token else token
            if isinstance(token, int):
                return token
        return 0

    def _judge(self, workbench: Workbench, sets: Mapping[str, list[list[int]]]) -> Judge:
        model = repr(sorted(self._sources.items()))
        return Judge.make(workbench, self._baseline, sets, self._folder / "baseline", model, self._spec.seed, self._reporter)

    def _choose_kv_dtype(self, judge: Judge) -> KvDtype:
        """The first KV cache dtype whose loss alone is a small part of what the gate allows."""
        allowed = _KV_SHARE * (self._spec.gate.max_kl or 0.05)
        dtypes = self._space.precision.kv_cache
        for dtype in dtypes:
            on_dtype = replace(judge, workbench=replace(judge.workbench, kv_dtype=dtype))
            if self._ledger.once(f"sensitivity/kv_cache/{dtype}", partial(on_dtype.probe_kl, {})) <= allowed:
                return dtype
        return dtypes[-1]

    def _workload(self, workbench: Workbench) -> Workload:
        def request_seconds(prompt_tokens: int, output_tokens: int) -> float:
            alone = Workload(min(prompt_tokens, 256), output_tokens, 1)

            def measure() -> list[float]:
                decode = self._step(workbench, self._baseline, alone, 1, True)
                prefill = self._step(workbench, self._baseline, alone, alone.prompt_tokens, False)
                return [decode.ms, prefill.ms]

            decode_ms, prefill_ms = self._ledger.once(f"workload/{prompt_tokens}/{output_tokens}", measure)
            return (prefill_ms * prompt_tokens / alone.prompt_tokens + decode_ms * output_tokens) / 1000

        workload = resolve_workload(self._spec.workload, request_seconds)
        room = self._architecture.max_position - min(workload.output_tokens, self._architecture.max_position // 2)
        return Workload(
            prompt_tokens=min(workload.prompt_tokens, room),
            output_tokens=min(workload.output_tokens, self._architecture.max_position - 1),
            concurrency=min(workload.concurrency, max(self._space.serving.max_num_seqs)),
        )

    def _tune_kernels(self, workbench: Workbench, workload: Workload) -> tuple[Constants, int, tuple[Tuned, ...]]:
        """Constants, KV block size, and what was measured. Ops are tuned one after the other, each on the winners before it."""
        if workbench.library is None:
            return {}, workbench.kv_block_size, ()
        plans = tuning_plans(self._offered, self._shapes, self._baseline_scheme)
        folder = self._folder / "kernels"
        constants: Constants = {}
        tuned: list[Tuned] = []
        for op, space in self._space.kernels.items():
            bench = replace(workbench, library=None)
            tuner = KernelTuner(self._ledger, self._reporter, bench, self._isa, plans, workload, folder)
            tuned.append(tuner.tune_op(op, space, constants))
            constants |= tuned[-1].chosen
        tuner = KernelTuner(self._ledger, self._reporter, workbench, self._isa, plans, workload, folder)
        tuned.append(tuner.tune_block_size(self._space.serving.kv_block_size))
        return resolve_constants(constants, self._isa), tuned[-1].chosen["kv_block_size"], tuple(tuned)

    def _bands(self, sensitivities: Sensitivities) -> tuple[Band, ...]:
        coarsest = {}
        for group, measured in sensitivities.items():
            coarsest[group] = measured[Probes.among(self._offered[kind_of(group)]).weights.name]
        return make_bands(self._architecture, coarsest, self._offered)

    def _search(self, bands: tuple[Band, ...], sensitivities: Sensitivities, cost: CostProvider, judge: Judge) -> list[Trial]:
        search = PrecisionSearch(
            self._ledger, bands, cost.latency_ms, lambda plan: trial_score(self._gate, judge.evaluate(plan)), self._spec.seed
        )
        warm_starts = self._warm_starts(bands, sensitivities, cost)
        trials = search.run(warm_starts, self._spec.search.trials, self._spec.search.timeout_s, self._reporter)
        if not any(trial.is_feasible for trial in trials):
            best = min(trials, key=lambda trial: trial.violation, default=None)
            raise NothingPasses(
                "no trial was finished; give the search more time"
                if best is None
                else f"none of {len(trials)} trials is within the gate; trial {best.number} came closest, with KL "
                f"{best.kl:.4g}, and misses a limit by {best.violation:.0%} of it"
            )
        return trials

    def _warm_starts(self, bands: tuple[Band, ...], sensitivities: Sensitivities, cost: CostProvider) -> list[Choice]:
        """Uniform plans and additive trade-offs, likely ones first: from the middle of the range outwards."""
        latency = {
            band.name: {s.name: sum(cost.group_ms(group, s) for group in band.groups) for s in band.choices} for band in bands
        }
        kl = {
            band.name: {s.name: sum(self._predicted_kl(group, s, sensitivities) for group in band.groups) for s in band.choices}
            for band in bands
        }
        limit = self._spec.gate.max_kl or 0.05
        predicted = {}
        for choice in [*uniform_choices(bands), *trade_off_choices(bands, latency, kl)]:
            total = sum(kl[band][scheme] for band, scheme in choice.items())
            predicted[tuple(choice.items())] = abs(total / limit - 0.5)
        return [dict(items) for items in sorted(predicted, key=lambda items: predicted[items])]

    def _predicted_kl(self, group: str, scheme: Scheme, sensitivities: Sensitivities) -> float:
        probes = Probes.among(self._offered[kind_of(group)])
        return predict_kl(sensitivities[group], scheme, lambda s: self._store.relative_error(group, s), probes)

    def _prove(
        self, trials: list[Trial], bands: tuple[Band, ...], workbench: Workbench, sets: dict[str, list[list[int]]]
    ) -> Proven:
        judge = self._judge(workbench, sets)

        def size_bytes(trial: Trial) -> float:
            plan = plan_of(bands, trial.choice)
            return sum(n * k * plan[group].bits_per_weight / 8 for group, (n, k) in self._shapes.items())

        def evaluations(trial: Trial) -> dict[str, Evaluation]:
            plan = plan_of(bands, trial.choice)

            def measure() -> dict[str, dict[str, object]]:
                with self._reporter.task(f"proving trial {trial.number} on unseen text", judge.num_sequences) as advance:
                    return {name: evaluation.record() for name, evaluation in judge.evaluate(plan, advance).items()}

            records = self._ledger.once(f"proof/{_plan_digest(plan)}", measure)
            return {name: Evaluation.from_record(record) for name, record in records.items()}

        return prove(finalists(trials, self._spec.search.choice, size_bytes), self._gate, evaluations)

    def _serving(self, workbench: Workbench, plan: Plan, workload: Workload) -> tuple[Serving, list[StepTime]]:
        memory_bytes = self._ledger.once("host/memory_bytes", lambda: os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
        sizes = len(self._space.serving.max_num_seqs) + len(self._space.serving.max_num_batched_tokens)
        progress = self._reporter.track(iter(range(sizes)), "measuring steps of the chosen plan", sizes)

        def measure(size: int, decodes: bool) -> StepTime:
            next(progress, None)
            return self._step(workbench, plan, workload, size, decodes)

        return tune_serving(
            self._space.serving,
            self._architecture,
            workload,
            self._spec.workload.itl_ms,
            kv_dtype=workbench.kv_dtype,
            kv_block_size=workbench.kv_block_size,
            memory_bytes=memory_bytes,
            num_threads=workbench.num_threads,
            measure=measure,
        )

    def _step(self, workbench: Workbench, plan: Plan, workload: Workload, size: int, decodes: bool) -> StepTime:
        """One measured step of `size` decoding sequences, or of a prompt of `size` tokens; a record."""

        def measure() -> dict[str, Any]:
            block_size = workbench.kv_block_size
            spans = decode_spans(workload, size, block_size) if decodes else prefill_spans(size, block_size)
            runner = workbench.runner(plan, size, sum(len(s.block_table) for s in spans) * block_size, len(spans))
            runner.fill(build_batch(spans, block_size))
            ms = typical_ms(interleaved_ms({0: runner.executable.run}, rounds=5)[0])
            context = spans[0].start + len(spans[0].token_ids)
            return asdict(StepTime(num_seqs=len(spans), num_tokens=size, context=context, ms=ms))

        key = f"step/{_plan_digest(plan)}/{workload}/{size}/{'decode' if decodes else 'prefill'}"
        return StepTime(**self._ledger.once(key, measure))

    def _paired(self, phase: str, workbench: Workbench, plan: Plan, workload: Workload, num_tokens: int | None) -> PairedSpeed:
        def measure() -> dict[str, object]:
            exact = replace(workbench, kv_dtype="fp32"), self._baseline
            with self._reporter.task(f"{phase} against the unquantized model, pairs", NUM_PAIRS) as advance:
                return asdict(measure_pair(exact, (workbench, plan), workload, num_tokens, advance))

        record: dict[str, Any] = self._ledger.once(f"speed/{phase}/{_plan_digest(plan)}", measure)
        return PairedSpeed(**{**record, "speedup": Estimate(**record["speedup"])})


def _compiler_version() -> str | None:
    try:
        return find_compiler().version
    except NoCompiler:
        return None


def _plan_digest(plan: Plan) -> str:
    named = sorted((group, scheme.name) for group, scheme in plan.items())
    return hashlib.sha256(repr(named).encode()).hexdigest()[:16]
