"""The whole gate on a bundle as it is on disk, of which `optimize` needs a part: what it proved it does not ask again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from artifacts.reader import open_bundle
from kernels.cpu.host import host
from optimizer.bundle.admission import score_bundle
from optimizer.bundle.as_proven import check_scores
from optimizer.evaluation import Evaluation, Gate, ItemSet, Subject, Verdict, compare_all
from optimizer.search.accuracy import Judge, judge_all
from runtime.loading import load


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
    text but is not, to 9 digits, what `proven` says of its plan there.
    """
    bundle = open_bundle(folder, machine=host().machine, cpu_flags=host().flags)
    evaluations = score_bundle(bundle, judge)
    verdicts = judge_all(gate, evaluations)
    if all(verdict.passed for verdict in verdicts.values()):
        check_scores(evaluations, proven)
        comparisons = compare_all(sets, baseline, Subject.served(load(folder)), seed=judge.seed)
        verdicts |= {name: comparison.verdict for name, comparison in comparisons.items()}
    return verdicts
