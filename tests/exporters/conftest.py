"""Bundles of small random models in any plan, served by the references: what exports are compared with."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from artifacts.manifest import Deployment, Kernels, Platform, Precision, Provenance
from artifacts.precision import Plan
from artifacts.writer import write_bundle
from optimizer.exporters.logical import LogicalBundle
from optimizer.quantization import ROUND_TO_NEAREST, Calibration, with_static_activations
from optimizer.quantization.packed import GPU_LAYOUT
from optimizer.weights.quantized_store import QuantizedStore
from runtime.loading import load_runner
from runtime.scoring import score
from tests.runtime.conftest import Tiny, limits, one_torch_thread, tiny  # noqa: F401 - fixtures

MakeBundle = Callable[..., Path]
TEXT = np.random.default_rng(0).integers(4, 203, 40).tolist()
TEMPLATE = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"


def save_bundle(
    folder: Path,
    model: Tiny,
    schemes: str | Mapping[str, str],
    *,
    tokenizer_json: str | None = None,
    generation_config: Mapping[str, object] | None = None,
) -> Path:
    """`model` under `schemes`, with the references for kernels."""
    plan = model.plan(schemes)
    symbols = {call.symbol for call in model.step(schemes, limits()).program.calls}
    kernels = Kernels(symbols=tuple(sorted(symbols)), backend="reference")
    files = _files(tokenizer_json or model.source.tokenizer_json, generation_config or {})
    write_bundle(folder, _deployment(model, plan, Platform(device="cpu"), kernels), model.store.plan_tensors(plan), files)
    return folder


def save_gpu_bundle(folder: Path, model: Tiny, schemes: Mapping[str, str], *, tokenizer_json: str | None = None) -> Path:
    """`model` in the layout of GPUs, its kernels but a name."""
    plan = model.plan(schemes)
    calibration = Calibration(model.source, [TEXT], folder.with_name("calibration"))
    method = with_static_activations(ROUND_TO_NEAREST, calibration)
    store = QuantizedStore(model.source, folder.with_name("gpu-store"), GPU_LAYOUT, method)
    kernels = Kernels(symbols=("x",), backend="gpu", table="kernels/table.json", compiler="none", activations="bf16")
    files = _files(tokenizer_json or model.source.tokenizer_json) | {"kernels/table.json": b"{}"}
    target = Platform(device="h100", archs=("sm_90",))
    write_bundle(folder, _deployment(model, plan, target, kernels), store.plan_tensors(plan), files)
    return folder


def _deployment(model: Tiny, plan: Plan, target: Platform, kernels: Kernels) -> Deployment:
    return Deployment(
        name="tiny",
        architecture=model.architecture,
        target=target,
        precision=Precision(groups={group: scheme.name for group, scheme in plan.items()}, kv_cache="fp32"),
        kernels=(kernels,),
        serving=limits(),
        provenance=Provenance(sources={}, tool_version="0", libraries={}, seed=0, study="tests"),
    )


def _files(tokenizer_json: str, generation_config: Mapping[str, object] = MappingProxyType({})) -> dict[str, bytes]:
    special = {"bos_token": "<s>", "bos_token_id": 0, "eos_token": "</s>", "eos_token_id": 1, **generation_config}
    return {
        "tokenizer.json": tokenizer_json.encode(),
        "chat_template.jinja": TEMPLATE.encode(),
        "generation_config.json": json.dumps(special).encode(),
    }


@pytest.fixture
def bundle(tiny: Callable[[str], Tiny], tmp_path: Path) -> MakeBundle:  # noqa: F811
    """Makes a bundle of a model of CONFIGS by name, under one scheme or one for each layer group."""

    def make(name: str, schemes: str | Mapping[str, str] = "int8", **options: Any) -> Path:
        return save_bundle(tmp_path / "bundle", tiny(name), schemes, **options)

    return make


def our_logits(bundle: Path, token_ids: list[int] = TEXT) -> NDArray[np.float32]:
    """Logits after each token, as the bundle is served."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="this bundle has no compiled kernels")
        return score(load_runner(LogicalBundle.open(bundle).bundle), token_ids)


def relative_error(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())
