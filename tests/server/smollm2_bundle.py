"""A bundle of SmolLM2 for tests of the server: int8 throughout, so that nothing is searched."""

from __future__ import annotations

from pathlib import Path

from artifacts.canonical import canonical_json
from artifacts.manifest import Deployment, Kernels, Limits, Platform, Precision, Provenance
from artifacts.precision import Scheme
from artifacts.writer import write_bundle
from kernels.cpu.build import find_compiler, resolve_constants
from kernels.cpu.host import host
from kernels.cpu.isa import best_isa
from kernels.cpu.library import Library
from optimizer.importers import open_source
from optimizer.measure.workbench import CpuWorkbench
from optimizer.weights.quantized_store import QuantizedStore

LIMITS = Limits(
    kv_block_size=32, num_kv_blocks=64, max_num_seqs=8, max_num_batched_tokens=256, max_model_len=2048, num_threads=2
)


def write_smollm2_bundle(smollm2_gguf: Path, kernels: Path, folder: Path) -> Path:
    """The bundle's folder, within `folder`; `kernels` is the compiled library."""
    source = open_source(smollm2_gguf)
    plan = dict.fromkeys(source.architecture.linear_shapes(), Scheme("int8"))
    library = Library(kernels)
    store = QuantizedStore(source, folder / "weights")
    workbench = CpuWorkbench(source.architecture, store, "bf16", LIMITS.kv_block_size, library, LIMITS.num_threads)
    deployment = Deployment(
        name="smollm2",
        architecture=source.architecture,
        target=Platform(device="cpu", machine=host().machine, isa=best_isa(host()).name, cpu_flags=library.cpu_flags),
        precision=Precision(groups={group: scheme.name for group, scheme in plan.items()}, kv_cache="bf16"),
        kernels=(
            Kernels(
                symbols=tuple(sorted(workbench.symbols(plan))),
                backend="cpu",
                library="kernels/cpu.so",
                constants=resolve_constants({}, best_isa(host())),
                compiler=find_compiler().version,
            ),
        ),
        serving=LIMITS,
        provenance=Provenance(sources=source.sha256(), tool_version="0.1.0", libraries={}, seed=0, study="none"),
    )
    assert source.chat_template is not None
    files: dict[str, bytes | Path] = {
        "tokenizer.json": source.tokenizer_json.encode(),
        "chat_template.jinja": source.chat_template.encode(),
        "generation_config.json": canonical_json(source.generation_config),
        "kernels/cpu.so": kernels,
    }
    write_bundle(folder / "bundle", deployment, store.plan_tensors(plan), files)
    return folder / "bundle"
