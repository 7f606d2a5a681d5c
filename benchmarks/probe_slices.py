"""Which part of the texts should a sensitivity be measured on? Rank correlation with that on the whole of them, by part.

    python -m benchmarks.probe_slices examples/smollm2.yaml [--every 3] [--out benchmarks/results/NAME.json]

Probes every `--every`th layer's groups, the embedding and the head as a run does, but on all search sequences whole, and keeps
the KL of each token. A slice is so many sequences, so many tokens of each, and the part of those that counts: its cost is the
tokens that are computed and those of which logits are. Told of each slice, over all disjoint choices of its sequences:
Spearman's correlation with the whole (mean and least), and the root mean square of the log of its ratio to the whole, less the
median, so that a slice which is too high by the same factor everywhere loses nothing.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from artifacts.precision import Plan
from kernels.cpu.host import host
from kernels.reference import limit_threads
from optimizer.evaluation import compare
from optimizer.records.progress import Reporter
from optimizer.run.freed_memory import keep_freed_memory
from optimizer.search.accuracy import Judge
from optimizer.search.items import source_prompts
from optimizer.search.sensitivity import what_is_probed
from optimizer.spec import load_spec
from optimizer.stages.accuracy import judge_on
from optimizer.stages.job import Job
from optimizer.stages.texts import TextStage

#: sequences, tokens of each, and from which part of these on they count
SLICES = (
    (16, 8, 0.0),
    (16, 8, 0.5),
    (16, 4, 0.0),
    (8, 12, 0.5),
    (4, 24, 0.0),
    (4, 24, 0.5),
    (3, 24, 0.5),
    (2, 48, 0.0),
    (1, 95, 0.0),
)


def token_kl(judge: Judge, name: str, change: Plan) -> NDArray[np.float64]:
    """KL of each predicted token with only `change` applied: [sequences, tokens]."""
    rows = []
    for i, logits in enumerate(judge.workbench.score_each({**judge.baseline, **change}, judge.sets[name])):
        ids, baseline = judge.sets[name][i], judge.stores[name].logits(i)
        rows.append([compare(ids[t : t + 2], baseline[t : t + 1], logits[t : t + 1]).kl for t in range(len(ids) - 1)])
    return np.array(rows)


def slices(kl: NDArray[np.float64], num_sequences: int, num_tokens: int, begin: float) -> Iterator[NDArray[np.float64]]:
    """The mean KL of each probe in `kl` [probes, sequences, tokens], for each disjoint choice of sequences."""
    for first in range(0, kl.shape[1] - num_sequences + 1, num_sequences):
        yield kl[:, first : first + num_sequences, int(num_tokens * begin) : num_tokens].mean(axis=(1, 2))


def agreement(part: NDArray[np.float64], whole: NDArray[np.float64]) -> tuple[float, float]:
    """Spearman's correlation, and the spread of the log of the ratio."""
    ranks = [values.argsort().argsort() for values in (part, whole)]
    ratio = np.log(part / whole)
    return float(np.asarray(np.corrcoef(ranks))[0, 1]), float(np.sqrt(np.mean((ratio - np.median(ratio)) ** 2)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec", type=Path)
    parser.add_argument("--every", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    keep_freed_memory()
    limit_threads(host().num_cores)
    reporter = Reporter()
    with tempfile.TemporaryDirectory() as folder:
        job = Job.open(load_spec(options.spec), Path(folder), reporter)
        bench = job.target.workbench(job.original)
        texts = TextStage(job, source_prompts(job.source), bench).run()
        judge = judge_on(job, bench, texts.search)
        judge = replace(judge, workbench=judge.workbench.exact())
        (name,) = judge.sets
        work = [
            (group, scheme)
            for group, scheme in what_is_probed(job.offered, job.source.architecture.linear_shapes())
            if not group.startswith("layers.") or int(group.split(".")[1]) % options.every == 0
        ]
        kl = np.stack([token_kl(judge, name, {group: scheme}) for group, scheme in reporter.track(work, "probes", len(work))])
    is_rounded = [scheme.quantized_activations for _, scheme in work]
    kinds = {"weights": ~np.array(is_rounded), "activations": np.array(is_rounded)}
    found = []
    for num_sequences, num_tokens, begin in SLICES:
        row: dict[str, object] = {"sequences": num_sequences, "tokens": num_tokens, "counted_from": begin}
        for kind, chosen in kinds.items():
            whole = kl[chosen].mean(axis=(1, 2))
            each = [agreement(part, whole) for part in slices(kl[chosen], num_sequences, num_tokens, begin)]
            correlations, spreads = zip(*each, strict=True)
            row[kind] = {
                "spearman": round(float(np.mean(correlations)), 3),
                "least_spearman": round(min(correlations), 3),
                "log_rms": round(float(np.mean(spreads)), 3),
            }
        print(json.dumps(row), flush=True)
        found.append(row)
    if options.out:
        record = {
            "command": f"python -m benchmarks.probe_slices {options.spec.name} --every {options.every}",
            "cpu": host().model,
            "probes": len(work),
            "slices": found,
        }
        options.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
