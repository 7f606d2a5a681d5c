"""The whole run: a model and its model.yaml in, the facts of a proven bundle out. Each stage's results are records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from math import prod
from pathlib import Path

import torch

from artifacts.architecture import kind_of
from artifacts.precision import KvDtype, Plan, Scheme
from optimizer.bundle.forged import Forged
from optimizer.cost.provider import CostProvider
from optimizer.evaluation import Comparison, Evaluation, Gate
from optimizer.importers import describe_stored_codes, open_source
from optimizer.measure.workbench import KvRangeError, Workbench
from optimizer.records.ledger import Ledger
from optimizer.records.plan_digest import plan_digest
from optimizer.records.progress import Reporter
from optimizer.run.study_name import study_name
from optimizer.search.accuracy import Judge, trial_score
from optimizer.search.bands import Band, fitting_schemes, make_bands, plan_of
from optimizer.search.items import ItemJudge, open_sets, source_prompts
from optimizer.search.knapsack import Knapsack, total
from optimizer.search.kv_cache import USUAL_KL, KvLoss, lossless_enough, measure_kv_losses, no_cache_passes, worth_searching
from optimizer.search.precision import PrecisionSearch, Trial, TrialScore
from optimizer.search.proof import NothingPasses, Proven, finalists, prove
from optimizer.search.refusal import explain
from optimizer.search.sensitivity import Probes, Sensitivities, measure_sensitivities, predict_kl
from optimizer.search.texts import TextSets, Tokens, proof_texts, read_calibration, read_texts, sample_sequences
from optimizer.search.warm_start import KV_CACHE, Choice, kv_dtype_of, uniform_choices
from optimizer.spec import ModelSpec
from optimizer.targets import fitted_workload, offered_schemes, open_target, target_layout
from optimizer.transforms import Rotation, refuse_what_cannot_fold, transformed
from optimizer.weights.prepared_weights import prepared_weights, record_sha256, scaled_plan
from optimizer.weights.quantized_store import QuantizedStore
from search_spaces.space import device, load_space

SAMPLED = "sampled"
_SAMPLING_SEQS = 32
#: Calibration text is drawn from seeds that no evaluation text has, whatever the specification's seed (below 2^32).
_CALIBRATION_SEED = 1 << 40


class Forge:
    """Runs the stages in order. `workspace` keeps the study, quantized weights and compiled kernels of the run."""

    def __init__(self, spec: ModelSpec, workspace: Path, reporter: Reporter) -> None:
        self._spec, self._reporter = spec, reporter
        self._space = load_space(spec.search.space, device(spec.devices[0]).kind)
        opened = open_source(spec.source)
        self._source = replace(opened, generation_config=spec.generation.over(opened.generation_config))
        self._sources = self._source.sha256()
        quantization = spec.quantization
        if quantization.transform:
            refuse_what_cannot_fold(self._source.architecture)
        #: what is scaled and rounded: the checkpoint, or it rotated, whose head is a group of its own
        self._base = self._source
        if quantization.rotates:
            self._base = transformed(self._source, Rotation.random(self._source.architecture, seed=spec.seed))
        self._architecture = self._base.architecture
        self._shapes = self._architecture.linear_shapes()
        kinds = dict.fromkeys(map(kind_of, self._shapes))
        self._offered = fitting_schemes(self._shapes, offered_schemes(self._space, spec.devices, kinds, self._architecture))
        self._has_static_activations = any(s.static_activations for schemes in self._offered.values() for s in schemes)
        self._scaled = scaled_plan(quantization.scales, self._shapes, self._offered) if quantization.scales else {}
        self.study_name = study_name(spec, self._sources, self._space)
        self._folder = workspace / self.study_name
        self._folder.mkdir(parents=True, exist_ok=True)
        self.ledger = Ledger(spec.search.storage or f"sqlite:///{workspace}/study.db", self.study_name, reporter.say)
        self._target = open_target(spec.devices, self._space, self._folder / "kernels", self.ledger, reporter)
        self._layout = target_layout(spec.devices)
        #: where what is made of the base lies, so that weights of two rotations never mix
        self._base_folder = self._folder / (f"rotation-{record_sha256(self._base)[:16]}" if quantization.rotates else "")
        #: the checkpoint's own weights, which everything is compared with; what is searched over may be transformed
        self._original = QuantizedStore(self._source, self._folder / "weights", self._layout)
        self._store = QuantizedStore(self._base, self._base_folder / "weights", self._layout)
        # What holds the checkpoint without loss: bf16 for bf16 weights, fp32 for all others.
        groups = self._source.architecture.linear_shapes()
        is_bf16 = all(self._source.tensor(f"{group}.weight").dtype == torch.bfloat16 for group in groups)
        self._baseline_scheme = self._target.baseline(is_bf16)
        self._baseline: Plan = dict.fromkeys(groups, self._baseline_scheme)
        # A transformed bf16 weight is no bf16 number any more.
        self._lossless: Plan = dict.fromkeys(self._shapes, self._target.baseline(is_bf16 and not quantization.transform))
        self._gate = Gate(**spec.gate.model_dump())
        self._prompts = source_prompts(self._source)
        #: what the tokenizer begins every text with
        self._prefix: list[int] = self._prompts.tokenizer.encode("").ids
        self._sets = open_sets(spec.evaluation, self._prompts, spec.seed, reporter)

    def run(self) -> Forged:
        """Every stage; NothingPasses if no plan is within the gate."""
        say = self._reporter.say
        say(f"{self._spec.name}: {self._architecture.family}, {self._target.title}, study {self.study_name}")
        for note in (*self._source.checkpoint.notes(), *self._source.notes):
            say(note)
        untuned = self._target.workbench(self._original)
        texts = self._texts(untuned)
        if self._spec.quantization.is_calibrated or self._has_static_activations:
            self._store = self._prepared(untuned)
        original, untuned = untuned, untuned.on(self._store)
        transforms = [str(record["transform"]) for record in self._store.source.transforms()]
        say(f"weights by {', then '.join([*transforms, self._store.method.name])}")
        if self._architecture.tie_embeddings != self._source.architecture.tie_embeddings:
            say(f"the head is no longer the embedding's: {prod(self._shapes['head']):,} weights more than the checkpoint has")
        judge = self._judge(untuned, texts.search)
        kv_losses = self._kv_losses(judge)
        kv_dtypes = list(kv_losses)
        untuned = replace(untuned, kv_dtype=kv_dtypes[0])
        workload = fitted_workload(
            self._spec.workload, self._target, original, self._baseline, self.ledger, max(self._space.serving.max_num_seqs)
        )
        say(f"workload: {workload.prompt_tokens} tokens in, {workload.output_tokens} out, {workload.concurrency} at once")
        workbench, tuned = self._target.tune(untuned, workload, self._offered, self._baseline_scheme)

        schemes = list(dict.fromkeys([self._baseline_scheme, *(s for kind in self._offered.values() for s in kind)]))
        cost = self._target.costs(workbench, schemes, self._baseline_scheme, workload, kv_dtypes)
        judge = replace(judge, workbench=workbench)
        # Over a KV cache that loses nothing, so that no sensitivity carries the damage of another.
        exact = replace(judge, workbench=workbench.exact())
        sensitivities = measure_sensitivities(self.ledger, self._reporter, self._offered, self._shapes, exact.probe_kl)
        bands = self._bands(sensitivities)
        trials = self._search(bands, sensitivities, kv_losses, cost, judge)
        proof = self._judge(workbench, texts.proof)
        proven = self._prove(trials, bands, proof)
        workbench = replace(workbench, kv_dtype=kv_dtype_of(proven.trial.choice))
        chosen = plan_of(bands, proven.trial.choice)
        plan = {group: chosen[group] for group in self._shapes}
        stored_codes = tuple(describe_stored_codes(self._store.source, plan))
        for line in stored_codes:
            say(line)
        unquantized = workbench.on(self._original), self._baseline
        serving, surface = self._target.serving(workbench, plan, workload, self._spec.workload.itl_ms)
        return Forged(
            spec=self._spec,
            source=self._store.source,
            sources=self._sources,
            study_name=self.study_name,
            title=self._target.title,
            evaluated=self._target.evaluated,
            baseline=self._baseline_scheme,
            baseline_bytes=self._original.weight_bytes(self._baseline),
            workbench=workbench,
            tuned=tuned,
            workload=workload,
            sensitivities=sensitivities,
            kv_losses=kv_losses,
            trials=tuple(trials),
            proof=proof,
            proven=proven,
            plan=plan,
            stored_codes=stored_codes,
            serving=serving,
            surface=tuple(surface),
            decode_speed=self._target.compare("decode", unquantized, (workbench, plan), workload),
            prefill_speed=self._target.compare("prefill", unquantized, (workbench, plan), workload),
            frozen=self._target.freeze(workbench, plan, serving),
        )

    def _prepared(self, workbench: Workbench) -> QuantizedStore:
        """The specification's weights, calibrated on the user's text or on what the model on `workbench` writes."""
        quantization = self._spec.quantization
        spec = quantization.calibration

        def sequences() -> list[Tokens]:
            if spec.text:
                return read_calibration(spec, self._prompts.tokenizer, self._prefix)
            return self._sample(workbench, spec.num_sequences, spec.tokens_per_sequence, _CALIBRATION_SEED + self._spec.seed)

        chosen = self.ledger.once("texts/calibration", sequences)
        return prepared_weights(
            self._base, quantization, self._scaled, chosen, self._base_folder, self._layout, self._reporter,
            self._has_static_activations,
        )  # fmt: skip

    def _texts(self, workbench: Workbench) -> TextSets:
        """The user's files; without any, sequences that the unquantized model wrote."""
        evaluation = self._spec.evaluation
        proof = proof_texts(evaluation, self._prompts.tokenizer, self._prefix)
        if evaluation.text:
            texts = read_texts(evaluation, self._prompts.tokenizer, self._prefix)
            return TextSets(texts.search, texts.proof | proof)

        def sample() -> list[Tokens]:
            return self._sample(workbench, 2 * evaluation.num_sequences, evaluation.tokens_per_sequence, self._spec.seed)

        sequences = self.ledger.once("texts/sampled", sample)
        return TextSets({SAMPLED: sequences[0::2]}, {SAMPLED: sequences[1::2]} | proof)

    def _sample(self, workbench: Workbench, num_sequences: int, num_tokens: int, seed: int) -> list[Tokens]:
        num_tokens = min(num_tokens, self._architecture.max_position)
        runner = workbench.runner(
            self._baseline, max(_SAMPLING_SEQS, 64), _SAMPLING_SEQS * (num_tokens + workbench.kv_block_size), _SAMPLING_SEQS
        )
        start = self._prefix[0] if self._prefix else self._start_token()
        return sample_sequences(runner, start, num_sequences, num_tokens, seed, self._reporter)

    def _start_token(self) -> int:
        """What a text begins with for a model whose tokenizer adds nothing: its BOS, or its EOS, which separates texts."""
        for key in ("bos_token_id", "eos_token_id"):
            token = self._source.generation_config.get(key)
            token = token[0] if isinstance(token, list) and token else token
            if isinstance(token, int):
                return token
        return 0

    def _judge(self, workbench: Workbench, sets: Mapping[str, list[list[int]]]) -> Judge:
        """Of plans on `workbench`, against the checkpoint's own weights on the same kernels."""
        model, original = repr(sorted(self._sources.items())), workbench.on(self._original)
        folder, seed = self._folder / "baseline", self._spec.seed
        judge = Judge.make(original, self._baseline, sets, folder, model, seed, self._reporter)
        return replace(judge, workbench=workbench, baseline=self._lossless)

    def _kv_losses(self, judge: Judge) -> dict[KvDtype, KvLoss]:
        """What the KV caches cost that stay in the search, in the order of the space. NothingPasses if none can."""
        offered, max_kl = self._target.kv_dtypes(self._architecture), self._spec.gate.max_kl
        losses = measure_kv_losses(self.ledger, self._reporter, judge, offered)
        kept = worth_searching(losses, max_kl)
        if not kept:
            others = [dtype for dtype in self._target.possible_kv_dtypes(self._architecture) if dtype not in offered]
            found = measure_kv_losses(self.ledger, self._reporter, judge, others)
            raise NothingPasses(no_cache_passes(losses, found, max_kl))
        for dtype, loss in losses.items():
            if dtype not in kept:
                self._reporter.say(f"KV cache: {dtype} is left out of the search: {loss}")
        return kept

    @property
    def _allowed_kl(self) -> float:
        return self._spec.gate.max_kl or USUAL_KL

    def _bands(self, sensitivities: Sensitivities) -> tuple[Band, ...]:
        coarsest = {}
        for group, measured in sensitivities.items():
            coarsest[group] = measured[Probes.among(self._offered[kind_of(group)]).weights.name]
        return make_bands(self._architecture, coarsest, self._offered)

    def _search(
        self,
        bands: tuple[Band, ...],
        sensitivities: Sensitivities,
        kv_losses: Mapping[KvDtype, KvLoss],
        cost: CostProvider,
        judge: Judge,
    ) -> list[Trial]:
        def score(plan: Plan, kv_dtype: KvDtype) -> TrialScore:
            try:
                return trial_score(self._gate, judge.on(kv_dtype).evaluate_until_hopeless(plan, self._gate))
            except KvRangeError:
                return TrialScore.refused()

        search = PrecisionSearch(self.ledger, bands, cost.latency_ms, score, self._spec.seed, list(kv_losses))
        warm_starts = self._warm_starts(bands, sensitivities, kv_losses, cost)
        trials = search.run(warm_starts, self._spec.search.trials, self._spec.search.timeout_s, self._reporter)
        if not trials:
            raise NothingPasses("no trial was finished; give the search more time")
        if not any(trial.is_feasible for trial in trials):
            best = min(trials, key=lambda trial: trial.violation)
            clauses = explain(self._gate, judge.on(kv_dtype_of(best.choice)), plan_of(bands, best.choice))
            raise NothingPasses(
                f"none of {len(trials)} trials is within the gate; trial {best.number} came closest, with KL {best.kl:.4g}, "
                f"and misses a limit by {best.violation:.0%} of it: {'; '.join(clauses)}"
            )
        return trials

    def _warm_starts(
        self,
        bands: tuple[Band, ...],
        sensitivities: Sensitivities,
        kv_losses: Mapping[KvDtype, KvLoss],
        cost: CostProvider,
    ) -> list[Choice]:
        """Uniform plans and those of least predicted KL within a latency, likely ones first: from the middle of the gate."""
        kv_ms = {dtype: cost.kv_ms(dtype) for dtype in kv_losses}
        latency: dict[str, Mapping[str, float]] = {
            band.name: {s.name: sum(cost.group_ms(group, s) for group in band.groups) for s in band.choices} for band in bands
        }
        # Each group is quantized in each scheme here, unless it was before.
        kl: dict[str, Mapping[str, float]] = {
            band.name: {s.name: sum(self._predicted_kl(group, s, sensitivities) for group in band.groups) for s in band.choices}
            for band in self._reporter.track(bands, "quantization errors of layer groups", len(bands))
        }
        latency[KV_CACHE] = {str(dtype): ms for dtype, ms in kv_ms.items()}
        kl[KV_CACHE] = {dtype: loss.kl for dtype, loss in kv_losses.items()}
        uniform_on = {KV_CACHE: lossless_enough(kv_losses, kv_ms, self._allowed_kl)}
        predicted = {}
        for choice in [*(plan | uniform_on for plan in uniform_choices(bands)), *Knapsack(kl, latency).choices()]:
            predicted[tuple(choice.items())] = abs(total(kl, choice) / self._allowed_kl - 0.5)
        return [dict(items) for items in sorted(predicted, key=lambda items: predicted[items])]

    def _predicted_kl(self, group: str, scheme: Scheme, sensitivities: Sensitivities) -> float:
        probes = Probes.among(self._offered[kind_of(group)])
        return predict_kl(sensitivities[group], scheme, lambda s: self._store.relative_error(group, s), probes)

    def _prove(self, trials: list[Trial], bands: tuple[Band, ...], judge: Judge) -> Proven:
        workbench, sets = judge.workbench, judge.sets
        named = [one.name for one in self._spec.evaluation.sets if one.format == "text"]
        # The study outlives a change of the sets, so a record says which texts it is about.
        texts_proved_on = f"/{sha256(repr([sets[name] for name in named]).encode()).hexdigest()[:16]}" if named else ""

        def size_bytes(trial: Trial) -> float:
            plan = plan_of(bands, trial.choice)
            return sum(n * k * plan[group].bits_per_weight / 8 for group, (n, k) in self._shapes.items())

        def on_cache(trial: Trial) -> Judge:
            return judge.on(kv_dtype_of(trial.choice))

        def evaluations(trial: Trial) -> dict[str, Evaluation]:
            plan, own = plan_of(bands, trial.choice), on_cache(trial)

            def measure() -> dict[str, dict[str, object]]:
                with self._reporter.task(f"proving trial {trial.number} on unseen text", own.num_sequences) as advance:
                    return {name: evaluation.record() for name, evaluation in own.evaluate(plan, advance).items()}

            records = self.ledger.once(f"proof/{plan_digest(plan, own.workbench.kv_dtype)}{texts_proved_on}", measure)
            return {name: Evaluation.from_record(record) for name, record in records.items()}

        original, answers = workbench.on(self._original), self._folder / "answers"
        items = ItemJudge.make(
            self._sets, original, self._baseline, self._prompts, self._source.generation_config, answers, self._spec.seed
        )

        def comparisons(trial: Trial) -> dict[str, Comparison]:
            own = replace(items, workbench=on_cache(trial).workbench)
            return own.compare(plan_of(bands, trial.choice), f"asking trial {trial.number}", self._reporter)

        def why(trial: Trial) -> list[str]:
            return explain(self._gate, on_cache(trial), plan_of(bands, trial.choice), margins)

        margins = {one.name: one.margin for one in self._spec.evaluation.sets if one.format == "text"}
        candidates = finalists(trials, self._spec.search.choice, size_bytes)
        return prove(candidates, self._gate, evaluations, comparisons, margins, why)
