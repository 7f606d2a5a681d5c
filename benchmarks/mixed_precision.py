"""Mixed precision by latency against uniform schemes and against the same solver by average bits, on the de-gridded SmolLM2.

    python -m benchmarks.mixed_precision --model models/SmolLM2-135M-Instruct.Q4_1.gguf --text wikitext2_valid.txt
        --work FOLDER [--costs RECORD.json] [--evaluations 6] [--out benchmarks/results/NAME.json]

An item of the solver is a kind of layer group (embed, qkv, o, gate_up, down: what a step fuses) in `--layers-per-item`
successive layers. Weights are rounded to nearest, on ranges clipped by calibration on the first half of the text unless
`--calibration-sequences 0`; the compiled CPU kernels run, as they serve. Sensitivities and refinement see sequences of the
third quarter, every KL reported is of the fourth, and a ratio of two has the interval of a bootstrap over paired sequences.

Latencies are the cost provider's: a decode step and its share of the prompt, for each workload of WORKLOADS, on `--threads`.
`--costs` takes what an earlier run measured from its record, without it the machine is measured, ROUNDS times. Three latencies
divide evenly what lies between the fastest uniform int4 and the fastest uniform int8 scheme. At each, one solver minimizes
predicted KL under the latency, the other under average bits per weight, with the same items, schemes, sensitivities and number
of whole plans to refine by. Bits do not say which budget of them meets a latency; here that is known: of the plans at 1000
budgets of bits the one of least predicted KL within the latency is taken, and refining it may leave the latency again.

OFFERED says which schemes both solvers are offered: the CPU's whole search space, where average bits cannot tell that float
activations cost time; those with int8 activations alone; one for each width, where bits can misjudge no scheme, only where in
the model it is. With `--profile` an offer's plans are timed whole too, side by side: a step need not be the sum.
FOLDER keeps weights and records: a killed run goes on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from hashlib import sha256
from pathlib import Path
from statistics import fmean, median

import numpy as np

from artifacts.layer_groups import kind_of
from artifacts.precision import Plan, Scheme
from benchmarks.degridded import degridded
from benchmarks.held_out import spaced, whole_text
from benchmarks.within_latency import WithinLatency, mean
from kernels.cpu.build import build
from kernels.cpu.host import host
from kernels.cpu.isa import best_isa
from kernels.cpu.library import Library
from optimizer.cost.measured import MeasuredCost, Parts, profile_plan
from optimizer.evaluation import compare
from optimizer.evaluation.evaluation import rounded
from optimizer.importers import open_source
from optimizer.measure.workbench import CpuWorkbench
from optimizer.measure.workload import Workload
from optimizer.quantization import ROUND_TO_NEAREST, Calibration, clipped_rounding_method
from optimizer.records.ledger import Ledger
from optimizer.records.plan_digest import plan_digest
from optimizer.records.progress import Reporter
from optimizer.search.accuracy import Judge
from optimizer.search.sensitivity import Probes, measure_sensitivities, predict_kl
from optimizer.weights.quantized_store import QuantizedStore
from search_spaces.space import load_space

FLOAT = Scheme("fp32")
SCHEMES = load_space().precision.groups.of("qkv")
OFFERED = {
    "every scheme": SCHEMES,
    "int8 activations": tuple(scheme for scheme in SCHEMES if scheme.quantized_activations),
    "one scheme a width": (Scheme("int4", 64, symmetric=False, int8_activations=True), Scheme("int8", int8_activations=True)),
}
PROBE, HELD_OUT = "third quarter", "fourth quarter"
WORKLOADS = {
    "chat": Workload(prompt_tokens=128, output_tokens=128, concurrency=1),
    "summaries": Workload(prompt_tokens=1024, output_tokens=128, concurrency=1),
    "extraction": Workload(prompt_tokens=1024, output_tokens=32, concurrency=1),
    "eight chats": Workload(prompt_tokens=128, output_tokens=128, concurrency=8),
}
ROUNDS = 3

#: scheme name or plan -> milliseconds of each kind of layer group in a decode step, and in a step of the prompt
StepParts = dict[str, list[Parts]]


def main() -> None:
    arguments = _arguments()
    reporter = Reporter()
    source = degridded(open_source(arguments.model), 0)
    shapes = source.architecture.linear_shapes()
    every = whole_text(arguments.text, source.tokenizer_json, arguments.tokens)
    half, quarter = len(every) // 2, len(every) // 4
    calibration = spaced(every[:half], arguments.calibration_sequences)
    texts = {
        PROBE: spaced(every[half : half + quarter], arguments.probe_sequences),
        HELD_OUT: spaced(every[half + quarter :], arguments.sequences),
    }
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    method = ROUND_TO_NEAREST
    if calibration:
        method = clipped_rounding_method(Calibration(source, calibration, work / "calibration"))
    store = QuantizedStore(source, work / "weights", method=method)
    library = Library(build({}, work / "cpu.so", best_isa(host())))
    storage = f"sqlite:///{work}/study.db"

    serving = CpuWorkbench(source.architecture, store, "fp32", 32, library, arguments.threads)
    parts: dict[str, StepParts] = json.loads(arguments.costs.read_text())["costs"] if arguments.costs else {}
    for name, workload in WORKLOADS.items():
        if name not in parts:
            parts[name] = _profiled("costs", storage, serving, {s.name: dict.fromkeys(shapes, s) for s in SCHEMES}, workload)
    if arguments.only_costs:
        return

    ledger = Ledger(storage, sha256(repr((texts, calibration, arguments.layers_per_item)).encode()).hexdigest()[:16])
    baseline: Plan = dict.fromkeys(shapes, FLOAT)
    bench = CpuWorkbench(source.architecture, store, "fp32", 32, library, num_threads=1)

    def judge_on(name: str) -> Judge:
        return Judge.make(bench, baseline, {name: texts[name]}, work / "baseline", ledger.name, 0, reporter)

    probe, held_out = judge_on(PROBE), judge_on(HELD_OUT)
    items: dict[str, list[str]] = {}
    for group in shapes:
        items.setdefault(_item_of(group, arguments.layers_per_item), []).append(group)
    sensitivities = measure_sensitivities(
        ledger,
        reporter,
        dict.fromkeys(map(kind_of, shapes), SCHEMES),
        {item: shapes[groups[0]] for item, groups in items.items()},
        lambda change: probe.probe_kl({group: scheme for item, scheme in change.items() for group in items[item]}),
    )
    probes = Probes.among(SCHEMES)

    def kl_of(item: str, scheme: Scheme) -> float:
        def relative_error(scheme: Scheme) -> float:
            return fmean(store.relative_error(group, scheme) for group in items[item])

        return predict_kl(sensitivities[item], scheme, relative_error, probes)

    def held_out_kl(plan: Plan) -> list[float]:
        sequences, logits = texts[HELD_OUT], held_out.stores[HELD_OUT].logits

        def measure() -> list[float]:
            pairs = zip(sequences, bench.score_each(plan, sequences), strict=True)
            scores = (compare(ids, logits(index), ours) for index, (ids, ours) in enumerate(pairs))
            return [rounded(score.kl / score.num_tokens) for score in scores]

        return ledger.once(f"held out/{plan_digest(plan)}", measure)

    within_latency = WithinLatency(
        items=items,
        num_weights={group: n * k for group, (n, k) in shapes.items()},
        uniform=SCHEMES,
        kl_of=kl_of,
        probe_kl=lambda plan: probe.evaluate(plan)[PROBE].kl.value,
        held_out_kl=held_out_kl,
        ledger=ledger,
        num_evaluations=arguments.evaluations,
    )
    settings = []
    for workload_name, workload in WORKLOADS.items():
        decode, prefill = ({name: both[phase] for name, both in parts[workload_name].items()} for phase in (0, 1))
        cost = MeasuredCost(decode, prefill, shapes, workload)
        uniform_ms = {scheme.name: cost.latency_ms(dict.fromkeys(shapes, scheme)) for scheme in SCHEMES}
        fastest = [min(ms for name, ms in uniform_ms.items() if name.startswith(weights)) for weights in ("int4", "int8")]
        for offered, schemes in OFFERED.items():
            points = []
            solved: dict[str, Plan] = {}
            for limit_ms in np.linspace(fastest[0], fastest[1], 5)[1:4].tolist():
                point, plans = within_latency.point(limit_ms, cost, schemes)
                points.append(point)
                solved |= {f"{solver} within {limit_ms:.2f}": plan for solver, plan in plans.items()}
                print(workload_name, offered, json.dumps(point), flush=True)
            setting = {"workload": workload_name, "offered": offered, "uniform_ms": uniform_ms, "points": points}
            if offered in arguments.profile:
                solved |= {scheme.name: dict.fromkeys(shapes, scheme) for scheme in schemes}
                profiles = _profiled("whole plans", storage, serving, solved, workload)
                setting["profiled_ms"] = {name: _whole_ms(both, workload) for name, both in profiles.items()}
            settings.append(setting)
    if arguments.out:
        report = {
            "command": "python -m benchmarks.mixed_precision --model MODEL --text TEXT --work FOLDER --costs THIS "
            f"--calibration-sequences {len(calibration)} --probe-sequences {len(texts[PROBE])} --sequences "
            f"{len(texts[HELD_OUT])} --tokens {arguments.tokens} --evaluations {arguments.evaluations} "
            f"--layers-per-item {arguments.layers_per_item} --threads {arguments.threads} "
            f"--profile {' '.join(map(repr, arguments.profile))}",
            "cpu": host().model,
            "isa": best_isa(host()).name,
            "model": arguments.model.name,
            "twin": {"seed": 0},
            "weights": store.method.name,
            "layers_per_item": arguments.layers_per_item,
            "text": {"file": arguments.text.name, "calibration": "first half", "probe": PROBE, "kl": HELD_OUT},
            "workloads": {name: asdict(workload) for name, workload in WORKLOADS.items()},
            "costs": parts,
            "sensitivities": sensitivities,
            "uniform_kl": {s.name: asdict(mean(held_out_kl(dict.fromkeys(shapes, s)))) for s in OFFERED["int8 activations"]},
            "settings": settings,
        }
        arguments.out.write_text(json.dumps(report, indent=2) + "\n")


def _profiled(what: str, storage: str, bench: CpuWorkbench, plans: Mapping[str, Plan], workload: Workload) -> StepParts:
    """Name -> a decode step under its plan and one of the prompt, medians of `ROUNDS` in turning order.

    Rounds, because neighbours on the machine share its last-level cache: an int4 step of this model may find its weights there.
    """
    rounds: list[StepParts] = []
    for index in range(ROUNDS):
        ledger = Ledger(storage, f"{what} of {workload} on {bench.num_threads}, round {index}")
        names = list(plans)
        shift = index * len(names) // ROUNDS
        profiles: StepParts = {}
        for name in names[shift:] + names[:shift]:
            plan = plans[name]
            profiles[name] = ledger.once(
                f"cost/{name if what == 'costs' else plan_digest(plan)}", partial(profile_plan, bench, plan, workload)
            )
        rounds.append(profiles)
    return {
        name: [
            {kind: median(one[name][phase][kind] for one in rounds) for kind in of_phase} for phase, of_phase in enumerate(both)
        ]
        for name, both in rounds[0].items()
    }


def _whole_ms(both: list[Parts], workload: Workload) -> float:
    """Milliseconds per output token of a plan that was profiled whole."""
    decode, prefill = ({"plan": {"other": sum(phase.values())}} for phase in both)
    return MeasuredCost(decode, prefill, [], workload).latency_ms({})


def _item_of(group: str, layers_per_item: int) -> str:
    """`layers.4.o` -> `layers.4+.o`, the item of layers 4 and 5 where they go in twos; `embed` is its own."""
    if not group.startswith("layers."):
        return group
    return f"layers.{int(group.split('.')[1]) // layers_per_item * layers_per_item}+.{kind_of(group)}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--costs", type=Path, help="a record of an earlier run, for its costs")
    parser.add_argument("--only-costs", action="store_true", help="measure those and stop: they want a machine at rest")
    parser.add_argument("--profile", nargs="*", default=(), choices=OFFERED, help="offers whose plans are timed whole as well")
    parser.add_argument("--threads", type=int, default=host().num_cores, help="of the latencies; KL does not depend on it")
    parser.add_argument("--calibration-sequences", type=int, default=16)
    parser.add_argument("--probe-sequences", type=int, default=4)
    parser.add_argument("--sequences", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--evaluations", type=int, default=6, help="whole plans that each refinement may measure")
    parser.add_argument("--layers-per-item", type=int, default=3)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
