"""From what a run decided to the bundle on disk. Pure of measurement: the same facts give the same bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from tokenizers import Tokenizer

from artifacts.canonical import canonical_json
from artifacts.manifest import Answers, Deployment, Manifest, Precision, Provenance, Quantization
from artifacts.self_test import SELF_TEST_NAME, SelfTest
from artifacts.writer import write_bundle
from optimizer.bundle.forged import Forged
from optimizer.bundle.making import TRIALS, making_files
from optimizer.importers import Source
from optimizer.report import Headline, KernelWinner, ReportData, SetAccuracy, SetItems, StepLatency, TrialPoint, render_report
from optimizer.search.precision import Trial, pareto_front
from optimizer.search.warm_start import KV_CACHE, kv_dtype_of
from optimizer.spec import ModelSpec
from optimizer.weights.prepared_weights import record_sha256
from optimizer.weights.rare_experts import described
from runtime.loading import chat_template_of
from runtime.prompts import Prompts
from runtime.self_test import record

_LIBRARIES = ("numpy", "optuna", "torch")
_SELF_TEST_TEXTS = ("The capital of France is", "Of all the numbers between one and ten, the")
#: of a prompt at most, and of its answer
_SELF_TEST_TOKENS = 16


def emit(forged: Forged, destination: Path, admit: Callable[[Path], object]) -> Manifest:
    """Write the bundle at `destination`, whole or not at all: not if `admit` raises on the folder in which it was written."""
    source = forged.source
    files: dict[str, bytes | Path] = {
        "tokenizer.json": source.tokenizer_json.encode(),
        "generation_config.json": canonical_json(source.generation_config),
        "evaluation.json": canonical_json(evaluation_record(forged)),
        TRIALS: trials_jsonl(forged).encode(),
        "search/sensitivities.json": canonical_json(forged.sensitivities),
        "search/kernels.json": canonical_json([asdict(tuned) for tuned in forged.kernels.tuned]),
        "report.html": render_report(report_data(forged)).encode(),
        **making_files(forged),
    }
    if source.chat_template is not None:
        files["chat_template.jinja"] = source.chat_template.encode()
    if forged.job.target.evaluated == "served":
        files[SELF_TEST_NAME] = recorded_self_test(forged).to_bytes()
    for name, comparison in forged.proven.comparisons.items():
        files[f"evaluation/{name}.jsonl"] = comparison.items_jsonl().encode()
    if records := source.transforms():
        files["search/transforms.json"] = canonical_json(records)
    if rare := forged.workbench.store.rare:
        files["search/rare_experts.json"] = canonical_json([asdict(one) for one in rare])
    files |= forged.frozen.files
    tensors = forged.workbench.store.plan_tensors(forged.plan)
    return write_bundle(destination, deployment(forged), tensors, files, admit=admit)


def recorded_self_test(forged: Forged) -> SelfTest:
    """What the proved plan answers to a few prompts, which `serve` asks again before a bundle takes over from another.

    The prompts are not of the user's texts: a bundle is copied to where those need not be.
    """
    prompts = Prompts(Tokenizer.from_str(forged.source.tokenizer_json), None)
    num_tokens = min(_SELF_TEST_TOKENS, forged.serving.max_model_len // 2)
    num_rows = forged.source.architecture.vocab_size  # a tokenizer may have tokens that the model knows nothing of
    encoded = [[token for token in prompts.encode(text) if token < num_rows][:num_tokens] or [0] for text in _SELF_TEST_TEXTS]
    runner = forged.workbench.runner(forged.plan, num_tokens, 2 * num_tokens)
    return record(runner, encoded, num_tokens, bits=all(kernels.library for kernels in forged.frozen.kernels))


def deployment(forged: Forged) -> Deployment:
    frozen, method = forged.frozen, forged.workbench.store.method
    return Deployment(
        name=forged.job.spec.name,
        architecture=forged.source.architecture,
        target=frozen.target,
        precision=Precision(
            groups={group: scheme.name for group, scheme in forged.plan.items()}, kv_cache=forged.workbench.kv_dtype
        ),
        kernels=frozen.kernels,
        evaluated=forged.job.target.evaluated,
        serving=forged.serving,
        answers=answers_of(forged.job.spec, forged.source),
        provenance=Provenance(
            sources=forged.job.sources,
            tool_version=version("coldforge"),
            libraries={name: version(name) for name in _libraries(forged)},
            seed=forged.job.spec.seed,
            study=forged.job.study_name,
            quantization=Quantization(
                method=method.name,
                calibration=method.calibration,
                transform=_transform(forged.source),
                transform_record=record_sha256(forged.source) if forged.source.transforms() else None,
            ),
        ),
    )


def answers_of(spec: ModelSpec, source: Source) -> Answers:
    """The formats that model.yaml names, else those that the chat template shows."""
    stated = Answers(**spec.answers.model_dump())
    template = chat_template_of(source.chat_template, source.generation_config, stated)
    if template is None:
        return Answers()
    tools, reasoning = template.formats.names
    return Answers(tools=tools, reasoning=reasoning)


def evaluation_record(forged: Forged) -> dict[str, object]:
    """evaluation.json: accuracy on unseen text with the gate's verdict, and speed against the unquantized model."""
    proven = forged.proven
    return {
        "baseline": {
            "scheme": forged.job.baseline_scheme.name,
            "kv_cache": forged.workbench.exact().kv_dtype,
            "weight_bytes": forged.baseline_bytes,
        },
        "bundle": {
            "kv_cache": forged.workbench.kv_dtype,
            "weight_bytes": forged.workbench.store.weight_bytes(forged.plan),
            "trial": proven.trial.number,
        },
        "kv_caches": {dtype: asdict(loss) for dtype, loss in forged.kv_losses.items()},
        "gate": {name: limit for name, limit in forged.job.spec.gate.model_dump().items() if limit is not None},
        "evaluated": forged.job.target.evaluated,
        "passed": all(verdict.passed for verdict in proven.verdicts.values()),
        "sets": {name: text.record() for name, text in proven.texts.items()},
        "item_sets": {name: comparison.record() for name, comparison in proven.comparisons.items()},
        "verdicts": {
            name: {"outcome": verdict.outcome, "checks": [str(check) for check in verdict.checks]}
            for name, verdict in proven.verdicts.items()
        },
        "speed": {"decode": asdict(forged.decode_speed), "prefill": asdict(forged.prefill_speed)},
        "workload": asdict(forged.kernels.workload),
    }


def trials_jsonl(forged: Forged) -> str:
    """One line for each trial: scheme of each band, KV cache, latency in ms per output token, KL in nats, gate violation.

    A trial without a score has its failure, too, and one that no more text would bring within the gate says so.
    """
    front = {trial.number for trial in pareto_front(forged.searched.trials)}
    lines = []
    for trial in forged.searched.trials:
        bands = {name: scheme for name, scheme in trial.choice.items() if name != KV_CACHE}
        of_trial = asdict(trial) | {"choice": bands, "kv_cache": kv_dtype_of(trial.choice)}
        if not trial.failure:
            del of_trial["failure"]
        if not trial.is_hopeless:
            del of_trial["is_hopeless"]
        chosen = {"on_front": trial.number in front, "chosen": trial == forged.proven.trial}
        lines.append(json.dumps(of_trial | chosen, sort_keys=True) + "\n")
    return "".join(lines)


def report_data(forged: Forged) -> ReportData:
    trials, proven = forged.searched.trials, forged.proven
    front = {trial.number for trial in pareto_front(trials)}
    stored, transform = forged.stored_codes, _transform(forged.source)
    rare = list(described(forged.workbench.store.rare, forged.source.architecture, forged.plan))
    return ReportData(
        name=forged.job.spec.name,
        target=f"{forged.job.spec.target} ({forged.job.target.title})",
        model=", ".join(forged.job.sources),
        headline=Headline(
            speedup=forged.decode_speed.speedup,
            baseline_ms=forged.decode_speed.baseline_ms,
            chosen_ms=forged.decode_speed.candidate_ms,
            size_bytes=forged.workbench.store.weight_bytes(forged.plan),
            baseline_size_bytes=forged.baseline_bytes,
            measured=forged.decode_speed.measured,
        ),
        accuracy=[SetAccuracy(name, t.evaluation, t.verdict, t.stopped) for name, t in proven.texts.items()],
        items=[SetItems(name, comparison) for name, comparison in proven.comparisons.items()],
        plan={group: scheme.name for group, scheme in forged.plan.items()},
        trials=[
            TrialPoint(t.number, _summary(t), t.latency_ms, t.kl, t.is_feasible, t.number in front)
            for t in forged.searched.trials
        ],
        chosen_trial=proven.trial.number,
        sensitivities=forged.sensitivities,
        kernels=[
            KernelWinner(
                name=tuned.subject,
                constants=tuned.chosen,
                num_candidates=len(tuned.candidates),
                ms=tuned.ms[tuned.candidates.index(tuned.chosen)],
                runner_up_margin=tuned.margin,
            )
            for tuned in (*forged.kernels.tuned, *forged.frozen.tuned)
        ],
        step_latencies=[StepLatency(step.num_tokens, step.context, step.ms) for step in forged.surface],
        serving={"kv_cache": forged.workbench.kv_dtype, **forged.serving.model_dump()},
        provenance={
            "study": forged.job.study_name,
            "quantization": forged.workbench.store.method.key,
            **({"transform": f"{transform}, record {record_sha256(forged.source)}"} if transform else {}),
            "seed": forged.job.spec.seed,
            "coldforge": version("coldforge"),
            "compiler": forged.frozen.compiler or "none",
            **{name: version(name) for name in _libraries(forged)},
            **{f"sha256 of {name}": digest for name, digest in forged.job.sources.items()},
            **({"the checkpoint's codes": "; ".join(stored)} if stored else {}),
            **({"experts that calibration hardly reached": "; ".join(rare)} if rare else {}),
        },
    )


def _transform(source: Source) -> str | None:
    return ", ".join(str(record["transform"]) for record in source.transforms()) or None


def _libraries(forged: Forged) -> tuple[str, ...]:
    return (*_LIBRARIES, *forged.frozen.libraries)


def _summary(trial: Trial) -> str:
    return ", ".join(f"{band} {scheme}" for band, scheme in trial.choice.items())
