"""Logits over the codes that a gpt-oss checkpoint came with, against transformers, which dequantizes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from artifacts.layer_groups import is_of_experts
from kernels.cpu.library import Library
from kernels.formats.table import cpu_packing
from optimizer.formats.matrix import QuantizedMatrix
from optimizer.importers import open_source
from optimizer.weights.quantized_store import QuantizedStore
from tests.importers.blocks_writing import write_blocks
from tests.importers.random_models import random_model
from tests.runtime.conftest import CONFIGS, Tiny, moderate
from tests.runtime.test_logits import TEXT, TOLERANCE, our_logits, relative_error, transformers_logits


@pytest.fixture
def kept(tmp_path: Path) -> Tiny:
    written = write_blocks(tmp_path / "model", moderate(random_model(CONFIGS["gpt_oss"])))
    source = open_source(written.folder)
    return Tiny(written.model, source, QuantizedStore(source, tmp_path / "store"))


def plan(model: Tiny, scheme: str) -> dict[str, str]:
    """Experts in `scheme`, all else in fp32."""
    return {group: scheme if is_of_experts(group) else "fp32" for group in model.architecture.linear_shapes()}


def test_logits_over_kept_codes_are_transformers(kept: Tiny, library: Library) -> None:
    theirs = transformers_logits(kept.model, TEXT)
    (compiled,) = our_logits(kept, plan(kept, "mxfp4"), library, 128, TEXT)
    (reference,) = our_logits(kept, plan(kept, "mxfp4"), None, 128, TEXT)
    (chunked,) = our_logits(kept, plan(kept, "mxfp4"), library, 7, TEXT)
    assert relative_error(compiled, theirs) < TOLERANCE
    assert relative_error(reference, theirs) < TOLERANCE
    assert chunked.tobytes() == compiled.tobytes()


def test_what_is_served_has_the_codes_of_the_file(kept: Tiny) -> None:
    chosen = kept.plan(plan(kept, "mxfp4-a8"))
    tensors = kept.store.plan_tensors(chosen)
    for group in filter(is_of_experts, chosen):
        packing, of_file = cpu_packing("mxfp4_a8"), kept.source.stored(group, chosen[group])
        assert isinstance(of_file, QuantizedMatrix)
        packed = {name: tensors[f"{group}.{name}"] for name in ("codes", "scales")}
        for name, part in packing.unpack(packed, of_file.shape[0]).items():
            np.testing.assert_array_equal(part, of_file.parts[name])


def test_rounded_activations_change_little(kept: Tiny, library: Library) -> None:
    exact = transformers_logits(kept.model, TEXT)
    (compiled,) = our_logits(kept, plan(kept, "mxfp4-a8"), library, 128, TEXT)
    (chunked,) = our_logits(kept, plan(kept, "mxfp4-a8"), library, 7, TEXT)
    by_token = np.abs(compiled - exact).max(axis=1) / np.abs(exact).max()
    assert TOLERANCE < np.median(by_token) < 0.05
    assert chunked.tobytes() == compiled.tobytes()
