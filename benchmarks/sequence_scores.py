"""What each sequence loses under some plans: what the accuracy gate's error rates are simulated with.

    python -m benchmarks.sequence_scores --model MODEL [--text wikitext2_valid.txt] [--plans int8-a8/bf16 ...] [--sequences 96]
        [--tokens 96] [--out benchmarks/results/NAME.json]

MODEL is a GGUF file or a Hugging Face folder. A plan is a scheme for every layer group, others for some kinds of them, and a KV
cache: int8-a8,down=int4-g32-asym-a8/bf16. Through the kernels of this CPU, default constants, against the unquantized model,
on text that it wrote itself and on the file. Per predicted token: KL, the negative log-likelihood less the unquantized model's
(both in nats), and the share whose first choice differs.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from artifacts.layer_groups import kind_of
from artifacts.precision import KvDtype, Plan, Scheme
from benchmarks.held_out import spaced, whole_text
from benchmarks.untuned import own_text, untuned
from kernels.cpu.host import host
from kernels.cpu.isa import best_isa
from optimizer.evaluation import SequenceScore
from optimizer.evaluation.evaluation import rounded
from optimizer.importers import open_source
from optimizer.records.progress import Reporter
from optimizer.search.accuracy import Judge

_TOGETHER = 32
PLANS = ("int8-a8/bf16", "int8-a8,o=int4-g32-asym-a8,down=int4-g32-asym-a8/int8", "int8-a8,gate_up=int4-g32-asym/fp16")


def parsed(text: str, groups: Iterable[str]) -> tuple[Plan, KvDtype]:
    """The plan that `text` stands for, and its KV cache."""
    schemes, _, kv_dtype = text.partition("/")
    default, *others = schemes.split(",")
    own = dict(other.split("=") for other in others)
    return {group: Scheme.parse(own.get(kind_of(group), default)) for group in groups}, TypeAdapter(KvDtype).validate_python(
        kv_dtype
    )


def columns(scores: Sequence[SequenceScore]) -> dict[str, list[float]]:
    """Per token of each sequence."""
    return {
        "kl": [rounded(s.kl / s.num_tokens) for s in scores],
        "log_perplexity_increase": [
            rounded((s.negative_log_likelihood - s.baseline_negative_log_likelihood) / s.num_tokens) for s in scores
        ],
        "top1_disagreement": [rounded(1 - s.num_top1_agreements / s.num_tokens) for s in scores],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--plans", nargs="+", default=PLANS)
    parser.add_argument("--sequences", type=int, default=96)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    source, reporter = open_source(options.model), Reporter()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        bench, exact = untuned(source, work)
        sets = {"sampled": own_text(source, bench, exact, options.sequences, options.tokens, _TOGETHER, reporter)}
        if options.text:
            sets[options.text.stem] = spaced(whole_text(options.text, source.tokenizer_json, options.tokens), options.sequences)
        judge = Judge.make(bench, exact, sets, work / "baseline", "", 0, reporter)
        found: dict[str, Any] = {}
        for plan in options.plans:
            schemes, kv_dtype = parsed(plan, exact)
            with reporter.task(plan, judge.num_sequences) as advance:
                scores = judge.on(kv_dtype).scores(schemes, advance)
            found[plan] = {name: columns(of_set) for name, of_set in scores.items()}
    text = f" --text {options.text.name}" if options.text else ""
    record = {
        "command": f"python -m benchmarks.sequence_scores --model {options.model.name}{text} --plans {' '.join(options.plans)} "
        f"--sequences {options.sequences} --tokens {options.tokens}",
        "cpu": f"{host().model}, {best_isa(host()).name}",
        "scores": found,
    }
    if options.out:
        options.out.write_text(json.dumps(record, indent=1) + "\n")
    for plan, of_plan in found.items():
        for name, of_set in of_plan.items():
            means = {metric: rounded(sum(values) / len(values)) for metric, values in of_set.items()}
            print(f"{plan} on {name}: {means}", flush=True)


if __name__ == "__main__":
    main()
