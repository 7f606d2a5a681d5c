"""Do other runtimes compute what the bundle computes, from its exports?

    python -m benchmarks.interchange MODEL TEXT --work FOLDER [--degrid SEED] [--vllm PYTHON] [--llama-cpp PYTHON]
        [--onnxruntime PYTHON] [--out RESULT.json]

MODEL is a Hugging Face folder or a GGUF file, TEXT a file of plain text: its first half calibrates, its second is scored. Makes
a bundle of MODEL, or of its de-gridded twin, for each plan of READINGS, exports it, has each runtime, by the Python of its
environment, give log-probabilities of the whole vocabulary, and compares them with ours: KL(ours | theirs) in nats per token,
and how often the most likely token is the same. What to expect is measured beside it:

    floor      the same between our kernels and their references in torch, which add the same products in another order
    rounding   what rounding activations costs by itself, under the same weights: KL(ours without it | ours)

llama.cpp rounds activations whatever the bundle does. There `rounding` is KL(ours | our references, rounding as it does), and
`emulated` KL(those | theirs).

FOLDER keeps statistics, weights and bundles of this model: a killed run goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from artifacts.reader import open_bundle
from benchmarks.degridded import degridded
from benchmarks.held_out import spaced, whole_text
from benchmarks.interchange.block_activations import BlockActivations
from benchmarks.interchange.bundles import TEXT_TOKENS, Bundler
from benchmarks.interchange.plans import READINGS, Plan, Reading
from benchmarks.interchange.readers import Floats, log_softmax
from kernels.cpu.host import host
from kernels.reference import ReferenceProgram
from kernels.spec import Program
from optimizer.exporters import export_bundle
from optimizer.importers import open_source
from runtime.loading import load_runner
from runtime.model_runner import Executable, ProgramRunner
from runtime.scoring import score

NUM_TEXTS = 4
CALIBRATION_SEQUENCES, CALIBRATION_TOKENS = 32, 256
#: Digits, runs of spaces, other scripts, code, and the words of a chat: what tokenizers disagree on.
STRINGS = (
    "The capital of France is Paris, isn't it?",
    "  1234567.89 +   0x1F\n\n\tdef f(x):\n        return x**2  ",
    "naïve Füße 你好,世界 😀👍🏽 Ω≈ç√",
    "<|im_start|>user\nWE'VE got 3 apples<|im_end|>\n",
)


def ours(bundle: Path, texts: list[list[int]], by: Callable[[Program], Executable] | None = None) -> Floats:
    """Log-probabilities fp32 [texts, n - 1, vocab_size] by the bundle's own kernels, or by what `by` makes of its program."""
    runner = load_runner(open_bundle(bundle, machine=host().machine, cpu_flags=host().flags))
    if by is not None:
        runner = ProgramRunner(runner.step, by(runner.step.program))
    return np.stack([log_softmax(score(runner, tokens)[:-1]) for tokens in texts])


@dataclass(frozen=True)
class Read:
    """What a runtime made of an export; `tokens` are STRINGS where it has a tokenizer of its own."""

    version: str
    logprobs: Floats
    tokens: list[list[int]] | None


def theirs(runtime: str, python: str, export: Path, texts: list[list[int]]) -> Read:
    asked, answer, logprobs = (
        export.with_name(f"{export.name}.{name}") for name in ("asked.json", "answer.json", "logprobs.npy")
    )
    asked.write_text(json.dumps({"texts": texts, "strings": STRINGS}))
    reader = Path(__file__).with_name("readers.py")
    subprocess.run([python, "-P", reader, runtime, export, asked, answer, logprobs], check=True, stdout=sys.stderr)
    return Read(**json.loads(answer.read_text()), logprobs=np.load(logprobs))


def compared(first: Floats, second: Floats) -> dict[str, float]:
    kl = (np.exp(first.astype(np.float64)) * (first.astype(np.float64) - second)).sum(axis=-1)
    return {
        "mean_kl": float(kl.mean()),
        "max_kl": float(kl.max()),
        "top1_agreement": float((first.argmax(-1) == second.argmax(-1)).mean()),
    }


@dataclass(frozen=True)
class Interchange:
    """Comparisons of one model on given texts."""

    bundler: Bundler
    texts: list[list[int]]

    def record(self, reading: Reading, plan: Plan, python: str) -> dict[str, object]:
        """What came of one plan; a record that is there already stands."""
        bundle = self.bundler.bundle(plan)
        export = bundle.with_name(f"{bundle.name}.{reading.form}.{plan.dtype}")
        kept = export.with_name(f"{export.name}.{reading.runtime}.json")
        if not kept.exists():
            changes = self._export(bundle, reading.form, export, plan)
            compared = self._compared(reading, plan, bundle, theirs(reading.runtime, python, export, self.texts))
            kept.write_text(json.dumps({"format": reading.form, **asdict(plan), **compared, "changes": changes}))
        found: dict[str, object] = json.loads(kept.read_text())
        return found

    def _export(self, bundle: Path, form: str, export: Path, plan: Plan) -> list[str]:
        lines = export.with_name(f"{export.name}.lines.json")
        if not export.exists():
            lines.write_text(json.dumps(export_bundle(bundle, form, export, plan.dtype).lines()))
        found: list[str] = json.loads(lines.read_text())
        return found

    def _compared(self, reading: Reading, plan: Plan, bundle: Path, read: Read) -> dict[str, object]:
        logprobs = ours(bundle, self.texts)
        found: dict[str, object] = {"runtime": f"{reading.runtime} {read.version}", **compared(logprobs, read.logprobs)}
        if reading.runtime == "llama.cpp":
            emulated = ours(bundle, self.texts, BlockActivations)
            found |= {"rounding": compared(logprobs, emulated), "emulated": compared(emulated, read.logprobs)}
        else:
            found["floor"] = compared(logprobs, ours(bundle, self.texts, ReferenceProgram))
        if plan.linear.endswith("-a8"):
            unrounded = self.bundler.bundle(plan, float_activations=True)
            found["rounding"] = compared(ours(unrounded, self.texts), logprobs)
        if read.tokens is not None:
            tokenizer = Tokenizer.from_str(self.bundler.source.tokenizer_json)
            found["tokens_agree"] = read.tokens == [tokenizer.encode(text, add_special_tokens=False).ids for text in STRINGS]
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--degrid", type=int, metavar="SEED")
    for reading in READINGS:
        parser.add_argument(f"--{reading.runtime.replace('.', '-')}", dest=reading.runtime, metavar="PYTHON")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    pythons = {reading: python for reading in READINGS if (python := vars(arguments)[reading.runtime])}
    source = open_source(arguments.model)
    if arguments.degrid is not None:
        source = degridded(source, arguments.degrid)

    def half(which: int, num_tokens: int, num: int) -> list[list[int]]:
        every = whole_text(arguments.text, source.tokenizer_json, num_tokens)
        return spaced((every[: len(every) // 2], every[len(every) // 2 :])[which], num)

    bundler = Bundler(source, half(0, CALIBRATION_TOKENS, CALIBRATION_SEQUENCES), arguments.work)
    interchange = Interchange(bundler, half(1, TEXT_TOKENS, NUM_TEXTS))
    options = [f"--{reading.runtime.replace('.', '-')} PYTHON" for reading in pythons]
    twin = [] if arguments.degrid is None else [f"--degrid {arguments.degrid}"]
    results: list[dict[str, object]] = []
    result = {
        "command": " ".join(["python -m benchmarks.interchange MODEL TEXT --work FOLDER", *twin, *options]),
        "cpu": host().model,
        "sources": source.sha256(),
        "degridded": arguments.degrid,
        "text": arguments.text.name,
        "num_tokens": NUM_TEXTS * (TEXT_TOKENS - 1),
        "results": results,
    }
    for reading, python in pythons.items():
        for plan in reading.plans:
            results.append(interchange.record(reading, plan, python))
            print(json.dumps(results[-1]), flush=True)
            if arguments.out:  # a run that is stopped keeps what it has
                arguments.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
