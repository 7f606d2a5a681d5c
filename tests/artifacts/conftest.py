"""A bundle of a few kilobytes with every kind of file, and the parts that it is written from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from artifacts.architecture import Architecture
from artifacts.manifest import Deployment, Kernels, Limits, Manifest, Platform, Precision, Provenance
from artifacts.reader import Bundle, open_bundle
from artifacts.weights import Array
from artifacts.writer import write_bundle

ARCHITECTURE = Architecture(
    family="llama",
    vocab_size=48,
    hidden_size=64,
    intermediate_size=96,
    num_layers=1,
    num_q_heads=4,
    num_kv_heads=2,
    head_dim=16,
    max_position=128,
    rms_norm_eps=1e-5,
    tie_embeddings=True,
)

DEPLOYMENT = Deployment(
    name="tiny",
    architecture=ARCHITECTURE,
    target=Platform(device="cpu", machine="x86_64", isa="avx2", cpu_flags=("avx2", "fma")),
    precision=Precision(
        groups={
            "embed": "int8",
            "layers.0.qkv": "int4-g32-asym",
            "layers.0.o": "int8-a8",
            "layers.0.gate_up": "bf16",
            "layers.0.down": "fp32",
        },
        kv_cache="bf16",
    ),
    kernels=(
        Kernels(
            symbols=("rms_norm", "quant_matmul_int8"),
            backend="cpu",
            library="kernels/cpu.so",
            constants={"QUANT_MATMUL_ROWS": 4},
            compiler="g++ 13.2.0 -O3 -march=x86-64-v3",
        ),
        Kernels(symbols=("silu_and_mul",), backend="reference"),
    ),
    serving=Limits(
        kv_block_size=16,
        num_kv_blocks=32,
        max_num_seqs=4,
        max_num_batched_tokens=64,
        max_model_len=128,
        num_threads=2,
    ),
    provenance=Provenance(
        sources={"model.gguf": hashlib.sha256(b"model").hexdigest()},
        tool_version="0.1.0",
        libraries={"numpy": "2.4.0"},
        seed=7,
        study="tiny-0123456789abcdef",
    ),
)


def tiny_tensors() -> dict[str, Array]:
    rng = np.random.default_rng(0)
    return {
        "embed.codes": rng.integers(-127, 127, (3, 64, 16), dtype=np.int8),
        "embed.scales": rng.standard_normal((3, 16), dtype=np.float32),
        "layers.0.down.weight": rng.standard_normal((4, 96, 16), dtype=np.float32),
        "layers.0.gate_up.weight": rng.integers(0, 1 << 16, (12, 64, 16), dtype=np.uint16),
        "layers.0.qkv.codes": rng.integers(0, 1 << 32, (8, 8, 16), dtype=np.uint32),
        "layers.0.qkv.scales": rng.standard_normal((8, 2, 16)).astype(np.float16),
        "odd": np.arange(5, dtype=np.uint8),
    }


def tiny_files() -> dict[str, bytes | Path]:
    return {
        "tokenizer.json": b"{}\n",
        "generation_config.json": b'{"eos_token_id": 2}\n',
        "evaluation.json": b"{}\n",
        "kernels/cpu.so": b"\x7fELF no real library",
        "search/trials.jsonl": b'{"number": 0}\n',
        "report.html": b"<!doctype html>\n",
    }


@dataclass(frozen=True)
class Parts:
    """What a bundle is written from; `write` and `open` with a host that suits it."""

    deployment: Deployment = DEPLOYMENT
    tensors: dict[str, Array] = field(default_factory=tiny_tensors)
    files: dict[str, bytes | Path] = field(default_factory=tiny_files)

    def but(self, **changes: Any) -> Parts:
        return replace(self, **changes)

    def write(self, destination: Path, **options: Any) -> Manifest:
        return write_bundle(destination, self.deployment, self.tensors, self.files, **options)

    @staticmethod
    def open(folder: Path) -> Bundle:
        return open_bundle(folder, machine="x86_64", cpu_flags=frozenset({"avx2", "fma", "sse2"}))


@pytest.fixture(scope="session")
def parts() -> Parts:
    return Parts()


@pytest.fixture
def bundle(tmp_path: Path, parts: Parts) -> Path:
    parts.write(tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory, parts: Parts) -> list[Path]:
    """Four bundles that differ in one file."""
    root = tmp_path_factory.mktemp("bundles")
    for index in range(4):
        parts.but(files={**parts.files, "evaluation.json": f"{index}\n".encode()}).write(root / str(index))
    return [root / str(index) for index in range(4)]
