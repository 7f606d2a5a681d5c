"""Bundles of one model in any plan, under one build of the kernels."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from hashlib import sha256
from pathlib import Path
from platform import machine

from artifacts.manifest import Deployment, Kernels, Limits, Platform, Precision, Provenance
from artifacts.precision import Scheme
from artifacts.weights import Array
from artifacts.writer import write_bundle
from benchmarks.interchange.plans import Plan
from kernels.cpu.build import build, find_compiler, resolve_constants
from kernels.cpu.host import host
from kernels.cpu.isa import best_isa
from kernels.cpu.library import Library
from optimizer.importers import Source
from optimizer.quantization.packed import CPU_LAYOUT
from optimizer.records.progress import Reporter
from optimizer.spec import QuantizationSpec
from optimizer.weights.prepared_weights import prepared_weights
from optimizer.weights.quantized_store import QuantizedStore
from runtime.decoder import lay_out

TEXT_TOKENS = 64
LIMITS = Limits(
    kv_block_size=16, num_kv_blocks=16, max_num_seqs=1, max_num_batched_tokens=TEXT_TOKENS, max_model_len=256, num_threads=1
)


@dataclass(frozen=True)
class Bundler:
    """`folder`, which keeps all that is made, belongs to `source` and to the sequences that transforms are searched on."""

    source: Source
    calibration: Sequence[Sequence[int]]
    folder: Path

    def bundle(self, made_of: Plan, *, float_activations: bool = False) -> Path:
        """The bundle of a plan, with an fp32 KV cache; with `float_activations` the same weights, and no activation rounded."""
        plan = made_of.of(self.source.architecture, float_activations=float_activations)
        path = self.folder / sha256(repr((astuple(made_of), float_activations)).encode()).hexdigest()[:16]
        if not path.exists():
            self._write(path, plan, self._store(made_of).plan_tensors(plan))
        return path

    def _store(self, made_of: Plan) -> QuantizedStore:
        """A transform is searched for all layers in `linear`, whichever of them the plan then has in it."""
        spec = QuantizationSpec(transform=made_of.transform)
        scheme = Scheme.parse(made_of.linear)
        layers = {group: scheme for group in self.source.architecture.linear_shapes() if group.startswith("layers.")}
        return prepared_weights(self.source, spec, layers, self.calibration, self.folder / "prepared", CPU_LAYOUT, Reporter())

    def _write(self, path: Path, plan: Mapping[str, Scheme], tensors: Mapping[str, Array]) -> None:
        architecture = self.source.architecture
        step = lay_out(architecture, plan, "fp32", tensors, LIMITS)
        isa, library_path = best_isa(host()), self.folder / "cpu.so"
        library = Library(library_path if library_path.exists() else build({}, library_path, isa))
        deployment = Deployment(
            name="interchange",
            architecture=architecture,
            target=Platform(device="cpu", machine=machine(), isa=isa.name, cpu_flags=library.cpu_flags),
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
