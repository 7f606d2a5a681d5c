"""gpt-oss as it is published, its experts in mxfp4, from `optimize` to a bundle that has their codes, and to an answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from artifacts.layer_groups import is_of_experts
from artifacts.precision import Scheme
from artifacts.reader import open_bundle
from kernels.cpu.host import host
from kernels.formats.table import cpu_packing
from optimizer.formats.matrix import QuantizedMatrix
from optimizer.importers import open_source
from tests.importers.blocks_writing import write_blocks
from tests.optimizer.conftest import Project
from tests.optimizer.test_mixture import CONFIGS
from tests.server.serving_process import ask, serving
from tests.tiny_models import save_tiny


@pytest.mark.slow
def test_a_bundle_has_the_codes_of_the_checkpoint(tmp_path: Path) -> None:
    torch.manual_seed(0)
    folder = save_tiny(tmp_path / "tiny", AutoModelForCausalLM.from_config(CONFIGS["gpt_oss"]))
    write_blocks(folder, AutoModelForCausalLM.from_pretrained(folder))
    project = Project(tmp_path)
    project.write({"search": {"trials": 3, "choice": "smallest"}, "gate": {"max_kl": 100.0}}, ["int8"])
    result = project.optimize()
    assert result.exit_code == 0, result.output
    assert "codes and scales kept as in the checkpoint: layers.0.experts_gate_up" in result.output
    bundle, source = open_bundle(project.bundle, machine=host().machine, cpu_flags=host().flags), open_source(folder)
    groups = {name: Scheme.parse(scheme) for name, scheme in bundle.manifest.precision.groups.items()}
    for group in filter(is_of_experts, groups):
        assert groups[group].weights == "mxfp4"
        of_file = source.stored(group, groups[group])
        assert isinstance(of_file, QuantizedMatrix)
        packed = {name: np.asarray(bundle.tensors[f"{group}.{name}"]) for name in ("codes", "scales")}
        for name, part in cpu_packing("mxfp4").unpack(packed, of_file.shape[0]).items():
            np.testing.assert_array_equal(part, of_file.parts[name])
    with serving(project.bundle, tmp_path / "stderr") as server:
        assert ask(server, "Hi", max_tokens=3).usage.completion_tokens == 3
