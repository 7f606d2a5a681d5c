"""What transforms save: the de-gridded SmolLM2 under AWQ, SmoothQuant and rotation, on text it was not calibrated on.

    python -m benchmarks.transformed_quantization --model models/SmolLM2-135M-Instruct.Q4_1.gguf --text wikitext2_valid.txt
        --work FOLDER [--scheme int4-g64-sym] [--methods rtn awq ...] [--out benchmarks/results/NAME.json]

Every linear layer is in one scheme, embedding and head in fp32. Calibration sequences are from the first half of the text,
evaluation from the second. Under a scheme of float activations layers run in fp32 torch with dequantized weights; under -a8 the
compiled CPU kernels run, as they serve. Reports KL(float || quantized) in nats per token and the increase of perplexity, each
with its 95 % interval. FOLDER keeps statistics and scales: a killed run goes on where it was.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from artifacts.precision import Scheme
from benchmarks.degridded import degridded
from benchmarks.held_out import spaced, whole_text
from benchmarks.quantization_methods import Weights, run
from kernels.cpu.build import build
from kernels.cpu.host import host
from kernels.cpu.isa import best_isa
from kernels.cpu.library import Library
from optimizer.evaluation import Evaluation
from optimizer.evaluation.metrics import Logits, compare
from optimizer.importers import Source, open_source
from optimizer.measure.workbench import CpuWorkbench
from optimizer.quantization import Calibration, Gptq, Quantizer, round_to_nearest
from optimizer.quantization.clipping import ClippedRounding
from optimizer.transforms import AWQ, SMOOTHQUANT, Rotation, search_scales, transformed
from optimizer.weights.quantized_store import QuantizedStore

Tokens = list[int]


@dataclass(frozen=True)
class Method:
    """Transforms in turn, then a way to round; int8 activations are rounded at run time, whatever the method."""

    transforms: tuple[str, ...]
    rounding: str


METHODS = {
    "rtn": Method((), "rtn"),
    "clip": Method((), "clip"),
    "gptq": Method((), "gptq"),
    "awq": Method(("awq",), "rtn"),
    "awq, clip": Method(("awq",), "clip"),
    "awq, gptq": Method(("awq",), "gptq"),
    "awq, gptq with clipping": Method(("awq",), "gptq with clipping"),
    "smoothquant": Method(("smoothquant",), "rtn"),
    "rotation": Method(("rotation",), "rtn"),
    "rotation of the residual alone": Method(("residual rotation",), "rtn"),
    "rotation, gptq": Method(("rotation",), "gptq"),
    "rotation, awq": Method(("rotation", "awq"), "rtn"),
    "rotation, awq, gptq": Method(("rotation", "awq"), "gptq"),
    "rotation, smoothquant": Method(("rotation", "smoothquant"), "rtn"),
}


@dataclass(frozen=True)
class Bench:
    """The model, its calibration and the texts that its logits are compared on. `work` belongs to these alone."""

    source: Source
    scheme: Scheme
    calibration: Sequence[Tokens]
    texts: Sequence[Tokens]
    work: Path

    def exact(self) -> Iterator[Logits]:
        """Logits of each text from the float model."""
        if self.scheme.quantized_activations:
            return self._served(self.source, Scheme("fp32"), "float")
        return self._run(self.source, self.source.tensor)

    def logits(self, method: Method) -> Iterator[Logits]:
        """Logits of each text from the model quantized by `method`."""
        source = self._transformed(method.transforms)
        if self.scheme.quantized_activations:
            assert method.rounding == "rtn", "the store that serves a bundle rounds to nearest"
            return self._served(source, self.scheme, "+".join(method.transforms) or "plain")
        return self._run(source, Weights(source, self.scheme, self._quantizer(method, source)).tensor)

    def _transformed(self, transforms: Sequence[str]) -> Source:
        source, a = self.source, self.source.architecture
        for index, transform in enumerate(transforms):
            if transform in ("rotation", "residual rotation"):
                source = transformed(source, Rotation.random(a, seed=0, values=transform == "rotation"))
                continue
            plan = {group: self.scheme for group in a.linear_shapes() if group.startswith("layers.")}
            before = self._statistics(transforms[:index], source)
            folder = self.work / "scales" / self.scheme.name / "+".join(transforms[: index + 1])
            source = transformed(source, search_scales(source, before, plan, _SEARCHED[transform], folder))
        return source

    def _statistics(self, transforms: Sequence[str], source: Source) -> Calibration:
        """Of the inputs of `source`, which is the model under `transforms`."""
        name = "+".join(transforms) or "plain"
        searched = any(transform in _SEARCHED for transform in transforms)
        folder = self.work / "inputs" / (f"{name} for {self.scheme.name}" if searched else name)
        return Calibration(source, self.calibration, folder)

    def _quantizer(self, method: Method, source: Source) -> Quantizer:
        statistics = self._statistics(method.transforms, source)
        roundings: dict[str, Quantizer] = {
            "rtn": round_to_nearest,
            "clip": ClippedRounding(statistics),
            "gptq": Gptq(statistics),
            "gptq with clipping": Gptq(statistics, clip=True),
        }
        return roundings[method.rounding]

    def _run(self, source: Source, tensors: Callable[[str], Tensor]) -> Iterator[Logits]:
        return (logits.numpy() for logits in run(source, self.texts, tensors).logits())

    def _served(self, source: Source, scheme: Scheme, name: str) -> Iterator[Logits]:
        """By the compiled CPU kernels, with an fp32 KV cache."""
        library = Library(build({}, self.work / "cpu.so", best_isa(host())))
        plan = {
            group: scheme if group.startswith("layers.") else Scheme("fp32") for group in source.architecture.linear_shapes()
        }
        store = QuantizedStore(source, self.work / "weights" / name)
        bench = CpuWorkbench(source.architecture, store, "fp32", 32, library, num_threads=1)
        return bench.score_each(plan, [list(ids) for ids in self.texts])


_SEARCHED = {"awq": AWQ, "smoothquant": SMOOTHQUANT}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--scheme", type=Scheme.parse, default=Scheme.parse("int4-g64-sym"))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["rtn", "gptq", "awq", "awq, gptq", "rotation"])
    parser.add_argument("--calibration-sequences", type=int, default=32)
    parser.add_argument("--sequences", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    source = degridded(open_source(arguments.model), arguments.seed)
    every = whole_text(arguments.text, source.tokenizer_json, arguments.tokens)
    half = len(every) // 2
    calibration = spaced(every[:half], arguments.calibration_sequences)
    texts = spaced(every[half:], arguments.sequences)
    bench = Bench(source, arguments.scheme, calibration, texts, arguments.work)
    baseline = [logits.copy() for logits in bench.exact()]
    results: dict[str, dict[str, object]] = {}
    for method in arguments.methods:
        scores = [compare(*three) for three in zip(texts, baseline, bench.logits(METHODS[method]), strict=True)]
        record = Evaluation.of(scores, seed=0).record()
        results[method] = {key: record[key] for key in ("kl", "top1_agreement", "perplexity", "perplexity_increase")}
        print(method, json.dumps(results[method]), flush=True)
    named = " ".join(f'"{method}"' for method in arguments.methods)
    report = {
        "command": "python -m benchmarks.transformed_quantization --model MODEL --text TEXT --work FOLDER "
        f"--scheme {arguments.scheme.name} --methods {named} "
        f"--calibration-sequences {arguments.calibration_sequences} --sequences {arguments.sequences} "
        f"--tokens {arguments.tokens} --seed {arguments.seed}",
        "cpu": host().model,
        "model": arguments.model.name,
        "twin": {"seed": arguments.seed},
        "scheme": arguments.scheme.name,
        "kept_in_fp32": ["embed", "head"],
        "text": arguments.text.name,
        "calibration": {"part": "first half", "num_sequences": len(calibration)},
        "evaluation": {"part": "second half", "num_sequences": len(texts)},
        "tokens_per_sequence": arguments.tokens,
        "methods": results,
    }
    rtn = results.get("rtn")
    for result in results.values():
        if rtn:
            result["kl_relative_to_rtn"] = result["kl"]["value"] / rtn["kl"]["value"]  # type: ignore[index]
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
