"""A gpt-oss checkpoint's mxfp4 experts for a GPU, their codes kept: against transformers, which dequantizes them."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch

from artifacts.layer_groups import is_of_experts
from artifacts.precision import plan_bytes
from kernels.formats.table import gpu_packing
from optimizer.formats.matrix import QuantizedMatrix
from optimizer.importers import open_source
from optimizer.quantization.packed import GPU_LAYOUT
from optimizer.weights.quantized_store import QuantizedStore
from runtime.gpu.weights import device_bytes
from tests.importers.blocks_writing import write_blocks
from tests.importers.random_models import random_model
from tests.runtime.gpu.conftest import CONFIGS, Small, moderated
from tests.runtime.gpu.test_emulated_logits import TEXT, TOLERANCE, error_by_token, our_logits, transformers_logits


@pytest.fixture
def kept(tmp_path: Path) -> Small:
    written = write_blocks(tmp_path / "model", moderated(random_model(CONFIGS["gpt_oss"])))
    source = open_source(written.folder)
    return Small(written.model, source, QuantizedStore(source, tmp_path / "store", GPU_LAYOUT))


def plan(model: Small) -> dict[str, str]:
    return {group: "mxfp4" if is_of_experts(group) else "bf16" for group in model.architecture.linear_shapes()}


def test_logits_over_kept_codes_are_transformers(kept: Small) -> None:
    theirs = transformers_logits(kept.model, TEXT)
    for chunk in (128, 7):
        (ours,) = our_logits(kept, plan(kept), TEXT, chunk=chunk)
        assert error_by_token(ours, theirs).max() < TOLERANCE


@pytest.mark.parametrize("act", [torch.bfloat16, torch.float16], ids=["bf16", "f16"])
def test_rounded_activations_cost_what_they_cost_transformers(kept: Small, act: torch.dtype) -> None:
    exact = transformers_logits(kept.model, TEXT)
    theirs = transformers_logits(deepcopy(kept.model).to(act), TEXT)
    (ours,) = our_logits(kept, plan(kept), TEXT, act=act)
    assert np.median(error_by_token(ours, exact)) < 1.5 * np.median(error_by_token(theirs, exact))


def test_what_is_stored_has_the_codes_of_the_file(kept: Small) -> None:
    packing, chosen = gpu_packing("mxfp4"), kept.plan(plan(kept))
    assert packing is not None
    tensors = kept.store.plan_tensors(chosen)
    sizes = device_bytes(kept.architecture, chosen)
    for group in filter(is_of_experts, chosen):
        of_file = kept.source.stored(group, chosen[group])
        assert isinstance(of_file, QuantizedMatrix)
        packed = {name: tensors[f"{group}.{name}"] for name in ("codes", "scales")}
        for name, part in packing.unpack(packed, *of_file.shape).items():
            np.testing.assert_array_equal(part, of_file.parts[name])
        assert sum(sizes[f"{group}.{name}"] for name in packed) == sum(part.nbytes for part in packed.values())
    shapes = {group: shape for group, shape in kept.architecture.linear_shapes().items() if group.endswith("experts_gate_up")}
    assert sum(sizes[f"{group}.{name}"] for group in shapes for name in ("codes", "scales")) == plan_bytes(chosen, shapes)
