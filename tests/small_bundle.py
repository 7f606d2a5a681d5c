"""A bundle of a tiny random llama, written without a search: what is served or evaluated in tests."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from artifacts.manifest import Deployment, Kernels, Limits, Platform, Precision, Provenance
from artifacts.precision import Scheme
from artifacts.writer import write_bundle
from kernels import registry
from kernels.cpu.build import find_compiler
from kernels.cpu.host import host
from kernels.cpu.isa import best_isa

if TYPE_CHECKING:
    from optimizer.importers import Source

LIMITS = Limits(kv_block_size=16, num_kv_blocks=64, max_num_seqs=4, max_num_batched_tokens=64, max_model_len=256, num_threads=1)


def write_small_bundle(
    folder: Path,
    source: Source,
    store: Path,
    library: Path,
    scheme: str = "fp32",
    limits: Limits = LIMITS,
    more: Mapping[str, bytes] = MappingProxyType({}),
) -> Path:
    """`source` with all weights in `scheme`; `store` is a folder for its codes, `library` the compiled kernels. `more` are
    other files, by name."""
    from optimizer.weights.quantized_store import QuantizedStore

    groups = dict.fromkeys(source.architecture.linear_shapes(), scheme)
    isa = best_isa(host())
    deployment = Deployment(
        name="tiny",
        architecture=source.architecture,
        target=Platform(device="cpu", machine=host().machine, isa=isa.name, cpu_flags=isa.cpu_flags),
        precision=Precision(groups=groups, kv_cache="fp32"),
        kernels=(
            Kernels(symbols=tuple(registry.specs()), backend="cpu", library="kernels/cpu.so", compiler=find_compiler().version),
        ),
        serving=limits,
        provenance=Provenance(sources={"model": "0" * 64}, tool_version="0", libraries={}, seed=0, study="tiny"),
    )
    plan = {group: Scheme.parse(name) for group, name in groups.items()}
    files: dict[str, bytes | Path] = {
        "tokenizer.json": source.tokenizer_json.encode(),
        "generation_config.json": json.dumps({"eos_token_id": 1, "bos_token": "<s>", "top_k": 50}).encode(),
        "kernels/cpu.so": library,
        **more,
    }
    if source.chat_template is not None:
        files["chat_template.jinja"] = source.chat_template.encode()
    write_bundle(folder, deployment, QuantizedStore(source, store).plan_tensors(plan), files)
    return folder
