"""Mixed precision by latency against uniform schemes and against the same solver by average bits, on the de-gridded SmolLM2.

    python -m benchmarks.mixed_precision --model models/SmolLM2-135M-Instruct.Q4_1.gguf --text wikitext2_valid.txt
        --work FOLDER [--costs RECORD.json] [--evaluations 12] [--out benchmarks/results/NAME.json]

An item of the solver is a kind of layer group (qkv, o, gate_up, down: what a step fuses) in `--layers-per-item` layers on end;
embedding and head stay in fp32 under every plan. Weights are rounded to nearest, on ranges clipped by calibration on the first
half of the text unless `--calibration-sequences 0`; the compiled CPU kernels run, as they serve. Sensitivities and refinement
see sequences of the third quarter, every KL reported is of the fourth.

Latencies are the cost provider's, of a decode step and its share of the prompt; `--costs` takes what it measured from the
`costs` of a record, without it the machine is measured. Three latencies divide evenly what lies between the fastest uniform
int4 and the fastest uniform int8 scheme. At each, plans are solved under the latency, and under the average bits per weight
whose plan predicts the least KL within the latency; both are refined by as many whole plans. Average bits cannot tell that
float activations cost time, so that solver is offered int8 activations alone; under all schemes it has few plans or none within
the latency (`fits`). Its refined plan is held to its bits, not to the latency. FOLDER keeps weights and records: a killed run
goes on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from artifacts.precision import Plan, Scheme
from benchmarks.degridded import degridded
from benchmarks.held_out import spaced, whole_text
from kernels.cpu.build import build
from kernels.cpu.host import host
from kernels.cpu.isa import best_isa
from kernels.cpu.library import Library
from optimizer.cost.measured import measure_costs
from optimizer.cost.workload import Workload
from optimizer.importers import open_source
from optimizer.ledger import Ledger
from optimizer.progress import Reporter
from optimizer.quantization import ROUND_TO_NEAREST, Calibration, clipped_rounding_method
from optimizer.quantized_store import QuantizedStore
from optimizer.search.accuracy import Judge
from optimizer.search.bands import kind_of
from optimizer.search.knapsack import Knapsack, Shares, total
from optimizer.search.plan_digest import plan_digest
from optimizer.search.refinement import refine
from optimizer.search.sensitivity import Probes, measure_sensitivities, predict_kl
from optimizer.search.warm_start import Choice
from optimizer.workbench import CpuWorkbench

FLOAT = Scheme("fp32")
SCHEMES = tuple(
    map(
        Scheme.parse,
        ("int4-g64-asym-a8", "int4-g64-asym", "int4-g32-sym-a8", "int4-g32-asym-a8", "int4-g32-asym", "int8-a8", "int8"),
    )
)
PROBE, HELD_OUT = "third quarter", "fourth quarter"
WORKLOAD = Workload(prompt_tokens=128, output_tokens=128, concurrency=1)


@dataclass(frozen=True)
class Solver:
    """Finds plans under what `cost` says; `kl` has the same schemes."""

    kl: Shares
    cost: Shares
    ledger: Ledger
    num_evaluations: int

    def plan(self, budget: float, probe_kl: Callable[[Choice], float]) -> tuple[Choice, dict[str, object]]:
        """The plan for `budget`, refined, and what was predicted and measured on the way."""
        start = Knapsack(self.kl, self.cost).choice(budget)
        refined = refine(self.ledger, start, self.kl, self.cost, budget, probe_kl, self.num_evaluations, seed=0)
        return refined.choice, {
            "predicted_kl": total(self.kl, start),
            "probe_kl_before_refinement": refined.start_kl,
            "probe_kl": refined.kl,
        }


def main() -> None:
    arguments = _arguments()
    reporter = Reporter()
    source = degridded(open_source(arguments.model), 0)
    shapes = {group: shape for group, shape in source.architecture.linear_shapes().items() if group.startswith("layers.")}
    kept = {group: FLOAT for group in source.architecture.linear_shapes() if group not in shapes}
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
        method = clipped_rounding_method(Calibration(source, calibration, work / "calibration", reporter))
    store = QuantizedStore(source, work / "weights", method=method)
    library = Library(build({}, work / "cpu.so", best_isa(host())))
    bench = CpuWorkbench(source.architecture, store, "fp32", 32, library, arguments.threads)
    ledger = Ledger(
        f"sqlite:///{work}/study.db", sha256(repr((texts, calibration, arguments.layers_per_item)).encode()).hexdigest()[:16]
    )

    every_scheme = [FLOAT, *SCHEMES]
    if arguments.costs:
        for name, parts in json.loads(arguments.costs.read_text())["costs"].items():
            ledger.once(f"cost/{name}", lambda parts=parts: parts)
    cost = measure_costs(ledger, reporter, bench, every_scheme, FLOAT, WORKLOAD)

    baseline: Plan = dict.fromkeys(source.architecture.linear_shapes(), FLOAT)

    def judge_on(name: str) -> Judge:
        return Judge.make(bench, baseline, {name: texts[name]}, work / "baseline", ledger.name, 0, reporter)

    probe, held_out = judge_on(PROBE), judge_on(HELD_OUT)
    kinds = list(dict.fromkeys(map(kind_of, shapes)))
    items: dict[str, list[str]] = {}
    for group in shapes:
        first = int(group.split(".")[1]) // arguments.layers_per_item * arguments.layers_per_item
        items.setdefault(f"layers.{first}+.{kind_of(group)}", []).append(group)

    def spread(choice: Mapping[str, Scheme]) -> Plan:
        return {group: scheme for item, scheme in choice.items() for group in items[item]}

    sensitivities = measure_sensitivities(
        ledger,
        reporter,
        dict.fromkeys(kinds, SCHEMES),
        {item: shapes[groups[0]] for item, groups in items.items()},
        lambda change: probe.probe_kl(spread(change)),
    )
    probes = Probes.among(SCHEMES)

    def kl_of(item: str, scheme: Scheme) -> float:
        return predict_kl(
            sensitivities[item], scheme, lambda s: fmean(store.relative_error(group, s) for group in items[item]), probes
        )

    def ms_of(item: str, scheme: Scheme) -> float:
        return sum(cost.group_ms(group, scheme) for group in items[item])

    def shares(of: Callable[[str, Scheme], float], schemes: Sequence[Scheme]) -> Shares:
        return {item: {scheme.name: of(item, scheme) for scheme in schemes} for item in items}

    num_weights = sum(n * k for n, k in shapes.values())

    def bits_of(item: str, scheme: Scheme) -> float:
        return scheme.bits_per_weight * sum(shapes[group][0] * shapes[group][1] for group in items[item]) / num_weights

    def plan_of(choice: Choice) -> Plan:
        return {**kept, **spread({item: Scheme.parse(name) for item, name in choice.items()})}

    def probe_kl(choice: Choice) -> float:
        return probe.evaluate(plan_of(choice))[PROBE].kl.value

    def result_of(choice: Choice) -> dict[str, Any]:
        plan = plan_of(choice)
        record = ledger.once(f"held out/{plan_digest(plan)}", lambda: held_out.evaluate(plan)[HELD_OUT].record())
        return {
            "latency_ms": cost.latency_ms(plan),
            "bits_per_weight": sum(bits_of(item, Scheme.parse(name)) for item, name in choice.items()),
            "kl": record["kl"],
            "schemes": {kind: _counts(choice, kind) for kind in kinds},
        }

    uniform = {scheme.name: result_of(dict.fromkeys(items, scheme.name)) for scheme in SCHEMES}
    print("uniform", json.dumps({name: (r["latency_ms"], r["kl"]["value"]) for name, r in uniform.items()}), flush=True)
    fastest = [min(r["latency_ms"] for name, r in uniform.items() if name.startswith(weights)) for weights in ("int4", "int8")]
    with_a8 = [scheme for scheme in SCHEMES if scheme.quantized_activations]
    by_latency = Solver(shares(kl_of, SCHEMES), shares(ms_of, SCHEMES), ledger, arguments.evaluations)
    by_bits = Solver(shares(kl_of, with_a8), shares(bits_of, with_a8), ledger, arguments.evaluations)
    by_bits_of_all = Knapsack(shares(kl_of, SCHEMES), shares(bits_of, SCHEMES)).choices(200)
    other_ms = cost.latency_ms(plan_of(dict.fromkeys(items, SCHEMES[0].name))) - sum(
        cost.group_ms(group, SCHEMES[0]) for group in shapes
    )
    points = []
    for limit_ms in np.linspace(fastest[0], fastest[1], 5)[1:4].tolist():
        within = {name: r for name, r in uniform.items() if r["latency_ms"] <= limit_ms}
        best_uniform = min(within, key=lambda name: within[name]["kl"]["value"])
        latency_choice, latency_steps = by_latency.plan(limit_ms - other_ms, probe_kl)
        fitting = [c for c in Knapsack(by_bits.kl, by_bits.cost).choices(200) if cost.latency_ms(plan_of(c)) <= limit_ms]
        most_accurate = min(fitting, key=lambda choice: total(by_bits.kl, choice))
        bits_choice, bits_steps = by_bits.plan(total(by_bits.cost, most_accurate), probe_kl)
        point: dict[str, Any] = {
            "latency_limit_ms": limit_ms,
            "by_latency": result_of(latency_choice) | latency_steps,
            "by_average_bits": result_of(bits_choice) | bits_steps,
            "best_uniform": {"scheme": best_uniform, "kl": uniform[best_uniform]["kl"]},
            "plans_by_bits_of_all_schemes": {
                "solved": len(by_bits_of_all),
                "fits": sum(cost.latency_ms(plan_of(choice)) <= limit_ms for choice in by_bits_of_all),
            },
        }
        kl = point["by_latency"]["kl"]["value"]
        point["kl_relative_to_best_uniform"] = kl / point["best_uniform"]["kl"]["value"]
        point["kl_relative_to_by_average_bits"] = kl / point["by_average_bits"]["kl"]["value"]
        points.append(point)
        print(json.dumps(point), flush=True)
    if arguments.out:
        report = {
            "command": "python -m benchmarks.mixed_precision --model MODEL --text TEXT --work FOLDER --costs THIS "
            f"--calibration-sequences {len(calibration)} --probe-sequences {len(texts[PROBE])} --sequences "
            f"{len(texts[HELD_OUT])} --tokens {arguments.tokens} --evaluations {arguments.evaluations} "
            f"--layers-per-item {arguments.layers_per_item}",
            "cpu": host().model,
            "model": arguments.model.name,
            "twin": {"seed": 0},
            "weights": store.method.name,
            "layers_per_item": arguments.layers_per_item,
            "kept_in_fp32": ["embed", "head"],
            "text": {"file": arguments.text.name, "calibration": "first half", "probe": PROBE, "kl": HELD_OUT},
            "latency": "MeasuredCost.latency_ms",
            "workload": asdict(WORKLOAD),
            "costs": {scheme.name: ledger.once(f"cost/{scheme.name}", _unmeasured) for scheme in every_scheme},
            "uniform": uniform,
            "points": points,
        }
        arguments.out.write_text(json.dumps(report, indent=2) + "\n")


def _unmeasured() -> Any:
    raise AssertionError("costs were measured or given")


def _counts(choice: Choice, kind: str) -> dict[str, int]:
    names = [name for item, name in choice.items() if kind_of(item) == kind]
    return {name: names.count(name) for name in sorted(set(names))}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--costs", type=Path, help="a record of an earlier run, for its costs")
    parser.add_argument("--calibration-sequences", type=int, default=16)
    parser.add_argument("--probe-sequences", type=int, default=4)
    parser.add_argument("--sequences", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--evaluations", type=int, default=12, help="whole plans that each refinement may measure")
    parser.add_argument("--layers-per-item", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
