"""`optimize` on a model with an adapter: the merged weights are what is judged against and what is served."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from artifacts.reader import open_bundle
from kernels.cpu.host import host
from kernels.formats.table import cpu_packing
from optimizer.importers import open_source
from tests.optimizer.conftest import MakeProject
from tests.tiny_models import write_lora


@pytest.mark.slow
def test_the_merged_model_is_the_reference_and_the_bundle(project: MakeProject) -> None:
    made = project(schemes=["fp32"], adapter="tuned", search={"trials": 2})
    write_lora(made.folder / "tuned", lora_alpha=3)
    result = made.optimize()
    assert result.exit_code == 0, result.output
    said = re.sub(r"\s+", " ", result.output)
    assert "tuned is merged into 1 of the matrices, at rank 1" in said
    assert "KL 0.0000 nats" in said, "against the base it would not be"

    bundle = open_bundle(made.bundle, machine=host().machine, cpu_flags=host().flags)
    merged = open_source(made.folder / "tiny", made.folder / "tuned").tensor("layers.0.qkv.weight").float().numpy()
    base = open_source(made.folder / "tiny").tensor("layers.0.qkv.weight").float().numpy()
    served = cpu_packing("fp32").unpack({"weight": bundle.tensors["layers.0.qkv.weight"]}, len(merged))["weight"]
    np.testing.assert_array_equal(served, merged)
    assert np.abs(merged - base).max() == pytest.approx(3, rel=1e-3)
    assert {"adapter_config.json", "adapter_model.safetensors"} <= bundle.manifest.provenance.sources.keys()
    fingerprint = json.loads((made.bundle / "search" / "fingerprint.json").read_text())
    assert "checkpoint: adapter_model.safetensors" in json.dumps(fingerprint)
