"""Do other runtimes compute what the bundle computes, from its exports?

    python -m benchmarks.interchange MODEL TEXT [--vllm PYTHON] [--llama-cpp PYTHON] [--onnxruntime PYTHON] [--out RESULT.json]

MODEL is a Hugging Face folder or a GGUF file, TEXT a file of plain text. Makes a bundle of MODEL for each plan of RUNTIMES,
exports it, has each runtime, by the Python of its environment, give log-probabilities of the whole vocabulary, and compares
them with ours: KL(ours | theirs) in nats per token, and how often the most likely token is the same. `floor` is the same
between our kernels and their references in torch, which add the same products in another order.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from platform import machine

import numpy as np
from tokenizers import Tokenizer

from artifacts.architecture import Architecture
from artifacts.manifest import Deployment, Kernels, Precision, Provenance, Serving, Target
from artifacts.precision import Scheme
from artifacts.reader import open_bundle
from artifacts.writer import write_bundle
from benchmarks.interchange_readers import Floats, log_softmax
from kernels.cpu.build import build, find_compiler, resolve_constants
from kernels.cpu.host import host
from kernels.cpu.isa import best_isa
from kernels.cpu.library import Library
from kernels.reference import ReferenceProgram
from optimizer.exporters import FloatDtype, export_bundle
from optimizer.importers import Source, open_source
from optimizer.quantized_store import QuantizedStore
from runtime.decoder import lay_out
from runtime.loading import load_runner
from runtime.model_runner import ProgramRunner
from runtime.scoring import score

NUM_TEXTS, TEXT_TOKENS = 4, 64


@dataclass(frozen=True)
class Plan:
    """`linear` for the linear layers, of the last `num_layers` alone if that is given and bf16 for the others.

    `dtype` is what vLLM computes in.
    """

    linear: str
    embedding: str = "bf16"
    num_layers: int | None = None
    dtype: FloatDtype | None = None

    def of(self, architecture: Architecture) -> dict[str, Scheme]:
        a = architecture
        first = a.num_layers - (a.num_layers if self.num_layers is None else self.num_layers)
        late = tuple(f"layers.{layer}." for layer in range(first, a.num_layers))
        schemes = {group: self.linear if group.startswith(late) else "bf16" for group in a.linear_shapes()}
        return {group: Scheme.parse(name) for group, name in (schemes | {"embed": self.embedding}).items()}


#: runtime -> format and plans. Where all layers round activations to int8, one step of difference in one is many in the next.
RUNTIMES: dict[str, tuple[str, tuple[Plan, ...]]] = {
    "vllm": (
        "compressed-tensors",
        (
            Plan("int4-g64-sym"),
            Plan("int4-g64-asym"),
            Plan("int8-a8"),
            Plan("int8-a8", dtype="float32"),
            Plan("int8-a8", num_layers=1, dtype="float32"),
        ),
    ),
    "llama.cpp": ("gguf", (Plan("int4-g64-sym", "int8"), Plan("int4-g32-asym", "int8"), Plan("int8", "int8"), Plan("bf16"))),
    "onnxruntime": (
        "onnx",
        (
            Plan("int4-g64-sym", "int8"),
            Plan("int4-g32-asym", "int4-g32-sym"),
            Plan("int8", "int8"),
            Plan("int8-a8"),
            Plan("int8-a8", num_layers=1),
        ),
    ),
}
LIMITS = Serving(
    kv_block_size=16, num_kv_blocks=16, max_num_seqs=1, max_num_batched_tokens=TEXT_TOKENS, max_model_len=256, num_threads=1
)


@dataclass(frozen=True)
class Bundler:
    """Makes bundles of one model under one build of the kernels."""

    source: Source
    folder: Path

    def bundle(self, made_of: Plan) -> Path:
        path = self.folder / "_".join(str(part) for part in astuple(made_of))
        if path.exists():
            return path
        architecture = self.source.architecture
        plan = made_of.of(architecture)
        tensors = QuantizedStore(self.source, self.folder / "store").plan_tensors(plan)
        step = lay_out(architecture, plan, "fp32", tensors, LIMITS)
        isa, library_path = best_isa(host()), self.folder / "cpu.so"
        library = Library(library_path if library_path.exists() else build({}, library_path, isa))
        deployment = Deployment(
            name="interchange",
            architecture=architecture,
            target=Target(device="cpu", machine=machine(), isa=isa.name, cpu_flags=library.cpu_flags),
            precision=Precision(groups={group: scheme.name for group, scheme in plan.items()}, kv_cache="fp32"),
            kernels=(
                Kernels(
                    symbols=tuple(sorted({call.symbol for call in step.program.calls})),
                    backend="cpu",
                    library="kernels/cpu.so",
                    constants=resolve_constants({}, isa),
                    compiler=find_compiler().version,
                ),
            ),
            serving=LIMITS,
            provenance=Provenance(sources=self.source.sha256(), tool_version="0", libraries={}, seed=0, study="interchange"),
        )
        files: dict[str, bytes | Path] = {
            "tokenizer.json": self.source.tokenizer_json.encode(),
            "generation_config.json": json.dumps(self.source.generation_config).encode(),
            "kernels/cpu.so": library_path,
        }
        if self.source.chat_template is not None:
            files["chat_template.jinja"] = self.source.chat_template.encode()
        write_bundle(path, deployment, tensors, files)
        return path


def ours(bundle: Path, texts: list[list[int]], *, by_references: bool = False) -> Floats:
    runner = load_runner(open_bundle(bundle, machine=host().machine, cpu_flags=host().flags))
    if by_references:
        runner = ProgramRunner(runner.step, ReferenceProgram(runner.step.program))
    return np.stack([log_softmax(score(runner, tokens)[:-1]) for tokens in texts])


def theirs(runtime: str, python: str, export: Path, texts: list[list[int]]) -> tuple[str, Floats]:
    """The runtime's version and log-probabilities."""
    tokens, out = export.parent / "tokens.json", export.parent / "logprobs.npy"
    tokens.write_text(json.dumps(texts))
    command = [python, Path(__file__).with_name("interchange_readers.py"), runtime, export, tokens, out]
    finished = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: Floats = np.load(out)
    return finished.stdout.rpartition("version ")[2].strip(), found


def compared(first: Floats, second: Floats) -> dict[str, float]:
    kl = (np.exp(first.astype(np.float64)) * (first.astype(np.float64) - second)).sum(axis=-1)
    return {
        "mean_kl": float(kl.mean()),
        "max_kl": float(kl.max()),
        "top1_agreement": float((first.argmax(-1) == second.argmax(-1)).mean()),
    }


def checks(source: Source, texts: list[list[int]], pythons: Mapping[str, str]) -> Iterator[dict[str, object]]:
    """A record for each runtime in `pythons` and each of its plans."""
    with tempfile.TemporaryDirectory() as temporary:
        bundler = Bundler(source, Path(temporary))
        for runtime, python in pythons.items():
            form, plans = RUNTIMES[runtime]
            for plan in plans:
                bundle = bundler.bundle(plan)
                export = bundle.with_name(f"{bundle.name}.{form}")
                record = export_bundle(bundle, form, export, plan.dtype)
                version, found = theirs(runtime, python, export, texts)
                logprobs = ours(bundle, texts)
                floor = compared(logprobs, ours(bundle, texts, by_references=True))
                facts = {"runtime": f"{runtime} {version}", "format": form, **asdict(plan)}
                yield {**facts, **compared(logprobs, found), "floor": floor, "changes": record.lines()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path)
    for runtime in RUNTIMES:
        parser.add_argument(f"--{runtime.replace('.', '-')}", dest=runtime, metavar="PYTHON")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    pythons = {runtime: python for runtime in RUNTIMES if (python := vars(arguments)[runtime])}
    source = open_source(arguments.model)
    ids = Tokenizer.from_str(source.tokenizer_json).encode(arguments.text.read_text()[:20000], add_special_tokens=False).ids
    texts = [ids[i * TEXT_TOKENS : (i + 1) * TEXT_TOKENS] for i in range(NUM_TEXTS)]
    options = " ".join(f"--{runtime.replace('.', '-')} PYTHON" for runtime in pythons)
    results: list[dict[str, object]] = []
    result = {
        "command": f"python -m benchmarks.interchange MODEL TEXT {options}",
        "cpu": host().model,
        "sources": source.sha256(),
        "text": arguments.text.name,
        "num_tokens": NUM_TEXTS * (TEXT_TOKENS - 1),
        "results": results,
    }
    for record in checks(source, texts, pythons):
        results.append(record)
        print(json.dumps(record), flush=True)
        if arguments.out:  # a run that is stopped keeps what it has
            arguments.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
