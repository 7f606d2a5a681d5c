"""From the toy checkpoint to a judged bundle, by the stages of a run: quantize, write, gate. Faults change a `Draft`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from artifacts.architecture import Architecture
from artifacts.canonical import canonical_json
from artifacts.manifest import Deployment, Kernels, Limits, Platform, Precision, Provenance
from artifacts.precision import Plan, Scheme
from artifacts.reader import open_bundle
from artifacts.weights import Array
from artifacts.writer import write_bundle
from kernels.cpu.build import find_compiler
from kernels.cpu.host import host
from kernels.cpu.isa import best_isa
from kernels.cpu.library import Library, LibraryRefused
from optimizer.bundle.as_proven import check_prompts
from optimizer.evaluation import Evaluation, Gate, Subject, Verdict
from optimizer.evaluation.sets.chat_template import ChatFidelity
from optimizer.evaluation.sets.multiple_choice import MultipleChoice
from optimizer.importers import Source
from optimizer.measure.workbench import CpuWorkbench
from optimizer.quantization import ROUND_TO_NEAREST, Method
from optimizer.quantization.packed import GPU_LAYOUT
from optimizer.records.progress import Reporter
from optimizer.search.accuracy import Judge
from optimizer.search.items import source_prompts, subject_on
from optimizer.search.texts import sample_sequences
from optimizer.targets.emulated import EmulatedWorkbench
from optimizer.weights.quantized_store import QuantizedStore
from runtime.generation_config import eos_token_ids
from tests.judge_bundle import judge_bundle

#: every kind of storage and of arithmetic that CPUs have, and both layers' `down` alike, so that they can be exchanged
SCHEMES = {
    "embed": "int8",
    "layers.0.qkv": "int4-g32-asym",
    "layers.0.o": "int8",
    "layers.0.gate_up": "int4-g32-asym-a8",
    "layers.0.down": "int4-g32-sym",
    "layers.1.qkv": "int8-a8",
    "layers.1.o": "int4-g32-asym",
    "layers.1.gate_up": "int4-g32-sym",
    "layers.1.down": "int4-g32-sym",
    "head": "int8",
}
GATE = Gate(max_kl=0.05)
#: longer than a chunk of attention, and than a step: caches and running sums are read again
NUM_SEQUENCES, NUM_TOKENS = 6, 80
NUM_ITEMS = 24
LIMITS = Limits(kv_block_size=16, num_kv_blocks=64, max_num_seqs=4, max_num_batched_tokens=48, max_model_len=256, num_threads=1)


@dataclass
class Draft:
    """A bundle before it is written, and what it is judged by."""

    tensors: dict[str, Array]
    files: dict[str, bytes | Path]
    description: dict[str, Any]
    items: Path
    judge: Judge
    damages: list[Callable[[Path], None]] = field(default_factory=list)
    """What happens to the folder once it is written."""

    @property
    def architecture(self) -> Architecture:
        return Architecture.model_validate(self.description["architecture"])


@dataclass(frozen=True)
class Bench:
    """The toy model's pipeline under one seed, which draws the text. `folder` keeps quantized weights and logits."""

    source: Source
    library: Path
    folder: Path
    seed: int = 0
    method: Method = ROUND_TO_NEAREST

    @cached_property
    def plan(self) -> Plan:
        return {group: Scheme.parse(name) for group, name in SCHEMES.items()}

    @cached_property
    def workbench(self) -> CpuWorkbench:
        store = QuantizedStore(self.source, self.folder / "store", method=self.method)
        return CpuWorkbench(self.source.architecture, store, "int8", 16, Library(self.library), 1)

    @cached_property
    def unquantized(self) -> Plan:
        return dict.fromkeys(self.source.architecture.linear_shapes(), Scheme("fp32"))

    def texts(self, num_sequences: int, seed: int) -> list[list[int]]:
        """What the unquantized model writes."""
        runner = self.workbench.exact().runner(self.unquantized, 64, 16 * (NUM_TOKENS + 16), 16)
        seeds = range(seed * num_sequences, (seed + 1) * num_sequences)
        return sample_sequences(runner, 0, seeds, NUM_TOKENS, Reporter())

    @cached_property
    def judge(self) -> Judge:
        sets = {"sampled": self.texts(NUM_SEQUENCES, self.seed)}
        return Judge.make(self.workbench, self.unquantized, sets, self.folder / "baseline", "toy", self.seed, Reporter())

    @cached_property
    def proven(self) -> dict[str, Evaluation]:
        """What the plan costs, as a run proves it before it writes a bundle."""
        return self.judge.evaluate(self.plan)

    @cached_property
    def baseline(self) -> Subject:
        eos_ids = eos_token_ids(self.source.generation_config)
        return subject_on(self.workbench.exact(), self.unquantized, source_prompts(self.source), eos_ids)

    @cached_property
    def items(self) -> Path:
        """Multiple choice in the toy's own symbols."""
        path = self.folder / "choices.jsonl"
        symbols = "!\"#$%&'()*+,-./0"
        lines = []
        for i in range(NUM_ITEMS):
            question, first, second = (symbols[(i * step + 3) % 16 :][:5] + symbols[i % 13 :][:3] for step in (3, 5, 7))
            lines.append(json.dumps({"question": question, "choices": [first, second], "answer": i % 2}))
        path.write_text("\n".join(lines) + "\n")
        return path

    def draft(self) -> Draft:
        """The bundle as it should be."""
        assert self.source.chat_template is not None
        isa = best_isa(host())
        deployment = Deployment(
            name="toy",
            architecture=self.source.architecture,
            target=Platform(device="cpu", machine=host().machine, isa=isa.name, cpu_flags=isa.cpu_flags),
            precision=Precision(groups=SCHEMES, kv_cache="int8"),
            kernels=(
                Kernels(
                    symbols=tuple(sorted(self.workbench.symbols(self.plan))),
                    backend="cpu",
                    library="kernels/cpu.so",
                    compiler=find_compiler().version,
                ),
            ),
            serving=LIMITS,
            provenance=Provenance(sources={}, tool_version="test", libraries={}, seed=self.seed, study="faults"),
        )
        files: dict[str, bytes | Path] = {
            "tokenizer.json": self.source.tokenizer_json.encode(),
            "generation_config.json": canonical_json(self.source.generation_config),
            "chat_template.jinja": self.source.chat_template.encode(),
            "kernels/cpu.so": self.library,
        }
        tensors = self.workbench.store.plan_tensors(self.plan)
        return Draft(tensors, files, deployment.model_dump(mode="json"), self.items, self.judge)

    def stopped_by(self, draft: Draft, folder: Path) -> str | None:
        """The typed error or the gate's metric that stops `draft`; None if nothing does."""
        try:
            prompts = source_prompts(self.source)
            chats = ChatFidelity("chats", ChatFidelity.conversations(), reference=prompts)
            sets = [chats, MultipleChoice("choices", MultipleChoice.read(draft.items), margin=0.3)]
            write_bundle(folder, Deployment.model_validate_json(json.dumps(draft.description)), draft.tensors, draft.files)
            for damage in draft.damages:
                damage(folder)
            verdicts = judge_bundle(folder, GATE, draft.judge, sets, self.baseline, self.proven)
            if all(verdict.passed for verdict in verdicts.values()):
                check_prompts(open_bundle(folder, machine=host().machine, cpu_flags=host().flags), self.source)
        except (ValueError, LibraryRefused) as error:
            return type(error).__name__
        missed = [check for verdict in verdicts.values() for check in verdict.checks if check.outcome != "pass"]
        if not missed:
            assert set(verdicts) == {"sampled", "chats", "choices"}
            return None
        return f"{missed[0].metric}, inconclusive" if missed[0].outcome == "inconclusive" else missed[0].metric

    def emulated_verdict(self, folder: Path) -> Verdict:
        """The gate on layers in fp8, emulated as for a GPU: quantized, run and judged anew in `folder`."""
        store = QuantizedStore(self.source, folder / "store", GPU_LAYOUT)
        workbench = EmulatedWorkbench(self.source.architecture, store, "bf16", 16, "bf16")
        bf16 = dict.fromkeys(self.unquantized, Scheme("bf16"))
        judge = Judge.make(workbench, bf16, self.judge.sets, folder / "baseline", "toy", self.seed, Reporter())
        plan = bf16 | {group: Scheme("fp8") for group in bf16 if group.startswith("layers.")}
        return GATE.judge(judge.evaluate(plan)["sampled"])
