"""The gate on a finished bundle: what `serve` would load, against the unquantized model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType

from artifacts.reader import open_bundle
from kernels.cpu.host import host
from optimizer.evaluation import Evaluation, Gate, ItemSet, Subject, Verdict, compare_all, evaluate
from optimizer.search.accuracy import Judge, judge_all
from runtime.loading import load, load_runner
from runtime.scoring import score


class NotAsProvenError(ValueError):
    """A bundle computes something else than the plan that was proved: a fault came in between, however little it costs."""


def judge_bundle(
    folder: Path,
    gate: Gate,
    judge: Judge,
    sets: Sequence[ItemSet],
    baseline: Subject,
    proven: Mapping[str, Evaluation] = MappingProxyType({}),
) -> dict[str, Verdict]:
    """A verdict for each of `judge`'s texts and, if all of these pass, for the sets up to the first that is not passed.

    Runs the CPU bundle at `folder` as it is on disk: its weights, library, tokenizer, template. Raises its typed errors where
    it does not verify or load, NonFiniteLogitsError where its logits are no numbers, NotAsProvenError where it passes on a
    text but is not, to 9 digits, what `proven` says of its plan there: what a text costs does not depend on the step that it
    is computed in (decision 0002), so any difference is a fault.
    """
    with_runner = partial(score, load_runner(open_bundle(folder, machine=host().machine, cpu_flags=host().flags)))
    evaluations = {
        name: evaluate(judge.sets[name], with_runner, store, seed=judge.seed) for name, store in judge.stores.items()
    }
    verdicts = judge_all(gate, evaluations)
    if all(verdict.passed for verdict in verdicts.values()):
        _check_as_proven(evaluations, proven)
        comparisons = compare_all(sets, baseline, Subject.served(load(folder)), seed=judge.seed)
        verdicts |= {name: comparison.verdict for name, comparison in comparisons.items()}
    return verdicts


def _check_as_proven(evaluations: Mapping[str, Evaluation], proven: Mapping[str, Evaluation]) -> None:
    for name, expected in proven.items():
        found = evaluations[name]
        if found.record() != expected.record():
            raise NotAsProvenError(
                f"on {name} the bundle must score as its plan was proved, KL {expected.kl.value:.9g}, got "
                f"{found.kl.value:.9g}; its weights, manifest, library or runtime are not those of the proof: build it again"
            )
