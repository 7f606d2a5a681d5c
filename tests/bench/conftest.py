"""A bundle of a tiny random model with several kinds of kernel, built here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from artifacts.architecture import Architecture
from artifacts.manifest import Deployment, Kernels, Limits, Platform, Precision, Provenance
from artifacts.precision import Scheme
from artifacts.writer import write_bundle
from kernels import registry
from kernels.cpu.build import find_compiler
from kernels.cpu.host import host
from kernels.cpu.isa import best_isa
from kernels.quant_matmul.spec import random_weight

ARCHITECTURE = Architecture(
    family="llama", vocab_size=100, hidden_size=64, intermediate_size=96, num_layers=2, num_q_heads=4, num_kv_heads=2,
    head_dim=16, max_position=256, rms_norm_eps=1e-5, tie_embeddings=True, layer_windows=(0, 20),
)  # fmt: skip
SERVING = Limits(
    kv_block_size=16, num_kv_blocks=16, max_num_seqs=2, max_num_batched_tokens=32, max_model_len=128, num_threads=1
)
GROUPS = dict.fromkeys(ARCHITECTURE.linear_shapes(), "fp32") | {
    "embed": "int8",
    "layers.0.qkv": "int8-a8",
    "layers.0.o": "int8-a16",
    "layers.1.qkv": "bf16",
    "layers.1.o": "int4-g32-sym",
}


@pytest.fixture(scope="session")
def tiny_bundle(kernels_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One bundle for the whole folder."""
    folder = tmp_path_factory.mktemp("bundle")
    isa = best_isa(host())
    rng = np.random.default_rng(0)
    tensors = {name: np.ones(shape, np.float32) for name, shape in ARCHITECTURE.float_shapes().items()}
    for group, (rows, columns) in ARCHITECTURE.linear_shapes().items():
        scheme = Scheme.parse(GROUPS[group])
        parts = random_weight(rng, scheme.variant, rows, columns, scheme.group_size)
        tensors |= {f"{group}.{part}": array for part, array in parts.items()}
    deployment = Deployment(
        name="tiny",
        architecture=ARCHITECTURE,
        target=Platform(device="cpu", machine=host().machine, isa=isa.name, cpu_flags=isa.cpu_flags),
        precision=Precision(groups=GROUPS, kv_cache="bf16"),
        kernels=(
            Kernels(symbols=tuple(registry.specs()), backend="cpu", library="kernels/cpu.so", compiler=find_compiler().version),
        ),
        serving=SERVING,
        provenance=Provenance(sources={"model": "0" * 64}, tool_version="0", libraries={}, seed=0, study="tiny"),
    )
    files: dict[str, bytes | Path] = {
        "tokenizer.json": b"{}\n",
        "generation_config.json": b"{}\n",
        "evaluation.json": b"{}\n",
        "kernels/cpu.so": kernels_path,
        "search/trials.jsonl": b"",
        "report.html": b"<!doctype html>\n",
    }
    write_bundle(folder / "tiny", deployment, tensors, files)
    return folder / "tiny"


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Peaks and profiles that are measured fast: how exact they are does not matter to these tests."""
    monkeypatch.setattr("runtime.bench.peaks._MIN_S", 0.02)
    monkeypatch.setattr("runtime.bench.profile._MIN_S", 0.02)
    monkeypatch.setattr("runtime.bench.peaks._READ_BYTES_PER_THREAD", 8 << 20)
