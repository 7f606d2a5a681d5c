"""`optimize` on a checkpoint of GPTQ: its codes are what the bundle serves, and cost nothing."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from transformers import LlamaConfig

from artifacts.reader import open_bundle
from kernels.cpu.host import host
from kernels.formats.table import cpu_packing
from tests.importers.prequantized_writing import write_gptq
from tests.optimizer.conftest import MakeProject


@pytest.mark.slow
def test_a_bundle_has_the_codes_of_its_source(project: MakeProject) -> None:
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=256,
        bos_token_id=0,
        eos_token_id=1,
    )
    made = project(schemes=["int4-g32-sym", "fp32"], source="gptq", search={"trials": 10, "choice": "smallest"})
    written = write_gptq(made.folder / "gptq", config=config)
    result = made.optimize()
    assert result.exit_code == 0, result.output

    sensitivities = json.loads((made.bundle / "search/sensitivities.json").read_text())
    groups = [group for group in sensitivities if group.startswith("layers.")]
    assert len(groups) == 8
    assert all(kl < 1e-9 for group in groups for kl in sensitivities[group].values())

    bundle = open_bundle(made.bundle, machine=host().machine, cpu_flags=host().flags)
    kept = [group for group, scheme in bundle.manifest.precision.groups.items() if scheme == "int4-g32-sym" and group in groups]
    assert kept, "what costs nothing and is smaller is chosen somewhere"
    modules = {"qkv": "self_attn.{}_proj q k v", "o": "self_attn.{}_proj o"}
    modules |= {"gate_up": "mlp.{}_proj gate up", "down": "mlp.{}_proj down"}
    for group in kept:
        _, layer, kind = group.split(".")
        pattern, *names = modules[kind].split()
        names = [f"model.layers.{layer}.{pattern.format(name)}" for name in names]
        stored = {part: bundle.tensors[f"{group}.{part}"] for part in ("codes", "scales")}
        num_rows = sum(len(written.codes[name]) for name in names)
        parts = cpu_packing("int4_sym").unpack(stored, num_rows)
        np.testing.assert_array_equal(parts["codes"], np.concatenate([written.codes[name] for name in names]))
        np.testing.assert_array_equal(parts["scales"], np.concatenate([written.scales[name] for name in names]))

    told = re.search(r"codes and scales kept as in the checkpoint: (.*)", result.output)
    assert told and sorted(told[1].split(", ")) == sorted(kept)
    assert "kept as in the checkpoint" in (made.bundle / "report.html").read_text()
