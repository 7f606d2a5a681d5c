"""gpt-oss as it is published, its experts in mxfp4, from `optimize` to a bundle that has their codes, and to an answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM

from artifacts.layer_groups import is_of_experts
from artifacts.precision import Scheme
from artifacts.reader import open_bundle, verify_bundle
from kernels.cpu.host import host
from kernels.formats.table import cpu_packing, gpu_packing
from kernels.gpu.frozen import FrozenKernels
from optimizer.formats.matrix import QuantizedMatrix
from optimizer.importers import open_source
from tests.importers.blocks_writing import write_blocks
from tests.optimizer.conftest import KINDS, Project
from tests.optimizer.test_gpu_target import SPACE, run
from tests.optimizer.test_mixture import CONFIGS
from tests.server.serving_process import ask, serving
from tests.tiny_models import save_tiny


def tiny_blocks(folder: Path) -> Path:
    torch.manual_seed(0)
    save_tiny(folder, AutoModelForCausalLM.from_config(CONFIGS["gpt_oss"]))
    write_blocks(folder, AutoModelForCausalLM.from_pretrained(folder))
    return folder


@pytest.mark.slow
def test_a_bundle_has_the_codes_of_the_checkpoint(tmp_path: Path) -> None:
    folder = tiny_blocks(tmp_path / "tiny")
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


@pytest.mark.slow
def test_a_bundle_for_a_gpu_has_them_too(tmp_path: Path) -> None:
    folder = tiny_blocks(tmp_path / "tiny")
    spec: dict[str, object] = {
        "source": "tiny",
        "evaluation": {"num_sequences": 4, "tokens_per_sequence": 32},
        "search": {"trials": 3, "space": "space.json", "choice": "smallest"},
        "gate": {"max_kl": 100.0},
    }
    precision = {"groups": {kind: ["int8"] for kind in KINDS}, "kv_cache": ["bf16"]}
    bundle = run(tmp_path, spec, SPACE | {"precision": precision})
    manifest, source = verify_bundle(bundle), open_source(folder)
    groups = {name: Scheme.parse(scheme) for name, scheme in manifest.precision.groups.items()}
    packing = gpu_packing("mxfp4")
    assert packing is not None
    tensors = {name: part for file in manifest.weight_files for name, part in load_file(bundle / file).items()}
    for group in filter(is_of_experts, groups):
        of_file = source.stored(group, groups[group])
        assert groups[group].weights == "mxfp4" and isinstance(of_file, QuantizedMatrix)
        packed = {name: tensors[f"{group}.{name}"] for name in ("codes", "scales")}
        for name, part in packing.unpack(packed, *of_file.shape).items():
            np.testing.assert_array_equal(part, of_file.parts[name])
    frozen = {kernel.source.function for kernel in FrozenKernels.read(bundle / "kernels" / "sm_90").kernels.values()}
    assert "moe_matmul_float4_kernel" in frozen and "moe_matmul_kernel" not in frozen
