"""The gate on a finished bundle: what `serve` would load, against the unquantized model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from artifacts.reader import open_bundle
from kernels.cpu.host import host
from optimizer.evaluation import Gate, ItemSet, Subject, Verdict, compare_all, evaluate
from optimizer.search.accuracy import Judge, judge_all
from runtime.loading import load, load_runner
from runtime.scoring import score


def judge_bundle(folder: Path, gate: Gate, judge: Judge, sets: Sequence[ItemSet], baseline: Subject) -> dict[str, Verdict]:
    """A verdict for each of `judge`'s texts and, if all of these pass, for the sets up to the first that is not passed.

    Runs the CPU bundle at `folder` as it is on disk: its weights, library, tokenizer, template. Raises its typed errors where
    it does not verify or load, NonFiniteLogitsError where its logits are no numbers.
    """
    with_runner = partial(score, load_runner(open_bundle(folder, machine=host().machine, cpu_flags=host().flags)))
    evaluations = {
        name: evaluate(judge.sets[name], with_runner, store, seed=judge.seed) for name, store in judge.stores.items()
    }
    verdicts = judge_all(gate, evaluations)
    if all(verdict.passed for verdict in verdicts.values()):
        comparisons = compare_all(sets, baseline, Subject.served(load(folder)), seed=judge.seed)
        verdicts |= {name: comparison.verdict for name, comparison in comparisons.items()}
    return verdicts
