"""Whether a finished bundle may be published: what `serve` would load, against what was proved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from artifacts.errors import BundleError
from artifacts.reader import Bundle, open_bundle
from kernels.cpu.host import host
from kernels.cpu.library import LibraryRefused
from optimizer.bundle.as_proven import (
    NotAsProvenError,
    check_described,
    check_kernels,
    check_prompts,
    check_scores,
    check_tensors,
)
from optimizer.bundle.forged import Forged
from optimizer.evaluation import Evaluation, NonFiniteLogitsError, Score
from optimizer.measure.workbench import SCORING_CHUNK_TOKENS
from optimizer.records.ledger import Ledger
from optimizer.records.progress import Reporter
from optimizer.records.record_key import record_key
from optimizer.search.accuracy import Judge
from optimizer.targets.target import Evaluated
from runtime.loading import load_runner
from runtime.scoring import score
from runtime.self_test import check as check_self_test

_NUMBERS: dict[Evaluated, str] = {
    "served": "scores on the proof's texts to 9 digits",
    "emulated": "numbers unchecked: accuracy is an emulation's, and the bundle is not run on its device",
}


def admit(folder: Path, forged: Forged, ledger: Ledger, reporter: Reporter) -> None:
    """NotAsProvenError unless the bundle at `folder` is what `forged` proved, and may be published.

    It must verify and open as for `serve`; description, tokenizer, template, ends of sequence, kernels and weights must be
    those of the proof, bit for bit; and loaded as for `serve`, it must pass its self-test, and score what each text of the
    proof begins with as its plan did, to 9 digits. With the same weights, prompts, ends and numbers it scores the rest, and
    answers the sets of items, as the plan did: that is not done again. The scores are a record under the bundle's digest, so
    the same bytes are scored once.
    """
    archs = forged.frozen.target.archs
    try:
        bundle = _open(folder, archs[0] if archs else None)
        check_described(bundle, forged.source.architecture, forged.plan, forged.workbench.kv_dtype)
        check_prompts(bundle, forged.source)
        check_kernels(bundle, forged.frozen.files)
        check_tensors(bundle, forged.workbench.store.plan_tensors(forged.plan))
        if forged.job.target.evaluated == "served":
            proof = forged.proof
            key = record_key(f"bundle/{bundle.manifest.digest}", seed=proof.seed, **proof.depends_beside_plan(()))
            ledger.once(key, partial(_scored_as_proven, bundle, forged, reporter))
    except (BundleError, LibraryRefused, NonFiniteLogitsError) as error:
        raise NotAsProvenError(f"it does not work: {error}") from error
    reporter.say(f"the bundle is what was proved: weights and files bit for bit, {_NUMBERS[forged.job.target.evaluated]}")


def _scored_as_proven(bundle: Bundle, forged: Forged, reporter: Reporter) -> dict[str, dict[str, object]]:
    check_self_test(bundle, load_runner(bundle))
    with reporter.task("proving the bundle as it will be served", forged.proof.num_sequences) as advance:
        found = score_bundle(bundle, forged.proof, advance)
    check_scores(found, {name: text.first for name, text in forged.proven.texts.items()})
    return {name: evaluation.record() for name, evaluation in found.items()}


def score_bundle(bundle: Bundle, judge: Judge, on_sequence: Callable[[], object] = lambda: None) -> dict[str, Evaluation]:
    """What a CPU bundle costs on `judge`'s texts, as it scores them."""
    return judge.evaluate_with(served_score(bundle, judge), on_sequence)


def served_score(bundle: Bundle, judge: Judge) -> Score:
    """Scores texts of `judge` on a CPU bundle, in the steps that it serves with.

    Two kinds of bundles take the steps of the proof instead: one whose context is shorter than a text, because the machine has
    little memory; and one of references, for torch rounds a product by how many rows it has.
    """
    longest = max(len(ids) for sequences in judge.sets.values() for ids in sequences)
    manifest, limits = bundle.manifest, bundle.manifest.serving
    if longest > limits.max_model_len or any(kernels.backend == "reference" for kernels in manifest.kernels):
        limits = judge.workbench.limits(min(longest, SCORING_CHUNK_TOKENS), longest, 1, limits.num_threads)
    runner = load_runner(replace(bundle, manifest=manifest.model_copy(update={"serving": limits})))
    return partial(score, runner)


def _open(folder: Path, gpu_arch: str | None) -> Bundle:
    """The bundle as this host opens it, or one with a GPU of `gpu_arch`."""
    return open_bundle(folder, machine=host().machine, cpu_flags=host().flags, gpu_arch=lambda: gpu_arch)
