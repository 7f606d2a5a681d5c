"""`optimize --gpu h100` where there is no GPU: a real bundle, marked for what it is."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from transformers import AutoModelForCausalLM, Gemma4TextConfig, Qwen3MoeConfig

from artifacts.errors import DeviceError, PlanningOnlyError
from artifacts.reader import verify_bundle
from kernels.gpu.frozen import FrozenKernels
from kernels.gpu.points import parse_tables
from optimizer.cli import optimize
from runtime.loading import load
from tests.optimizer.conftest import KINDS
from tests.tiny_models import SIZES, save_tiny

SPACE = {
    "precision": {
        "groups": {kind: ["int8", "bf16"] for kind in KINDS} | {"o": ["nvfp4", "bf16"], "down": ["fp8-tensor", "bf16"]},
        "kv_cache": ["bf16"],
    },
    "serving": {"kv_block_size": [16, 64], "max_num_seqs": [2], "max_num_batched_tokens": [32]},
}


def run(folder: Path, spec: dict[str, object], space: Mapping[str, object] = SPACE) -> Path:
    """The bundle that `optimize` makes in `folder`."""
    (folder / "space.json").write_text(json.dumps(space))
    search = {"trials": 3, "space": "space.json"}
    workload = {"prompt_tokens": 16, "output_tokens": 16}
    (folder / "model.yaml").write_text(json.dumps({"search": search, "workload": workload, "output": "out", **spec}))
    result = CliRunner().invoke(optimize, [str(folder / "model.yaml"), "--gpu", "h100"])
    assert result.exit_code == 0, result.output
    assert ("bit for bit, numbers unchecked: accuracy is an emulation's" in result.output) == (spec["source"] != "random")
    return folder / "out"


def mixture(folder: Path) -> Path:
    torch.manual_seed(0)
    sizes = SIZES | {"intermediate_size": 64, "head_dim": 16, "moe_intermediate_size": 64}
    config = Qwen3MoeConfig(vocab_size=300, **sizes, num_experts=4, num_experts_per_tok=2, norm_topk_prob=True)
    return save_tiny(folder / "tiny", AutoModelForCausalLM.from_config(config))


def digests(bundle: Path) -> dict[str, str]:
    paths = (path for path in bundle.rglob("*") if path.is_file())
    return {str(path.relative_to(bundle)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


@pytest.mark.slow
def test_a_bundle_for_a_gpu_that_is_not_here(tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny").symlink_to(tiny_llama)
    evaluation = {"num_sequences": 4, "tokens_per_sequence": 32}
    spec: dict[str, object] = {"source": "tiny", "evaluation": evaluation, "gate": {"max_kl": 0.5}}
    bundle = run(tmp_path, spec)

    manifest = verify_bundle(bundle)
    assert {"nvfp4", "fp8-tensor"} <= set(manifest.precision.groups.values())
    assert manifest.evaluated == "emulated" and manifest.purpose == "serving" and manifest.target.archs == ("sm_90",)
    frozen = FrozenKernels.read(bundle / "kernels" / "sm_90")
    assert len(frozen.kernels) > 10 and all(k.image.startswith(b"\x7fELF") for k in frozen.kernels.values())
    assert parse_tables((bundle / "kernels" / "points.json").read_bytes())["sm_90"].points
    record = json.loads((bundle / "evaluation.json").read_text())
    assert record["evaluated"] == "emulated" and not record["speed"]["decode"]["measured"]
    assert "not measured on a device" in (bundle / "report.html").read_text()
    with pytest.raises(DeviceError, match=r"kernels for sm_90 \(h100\), and this host has no GPU"):
        load(bundle)

    first = digests(bundle)
    shutil.rmtree(bundle)
    assert digests(run(tmp_path, spec)) == first, "emitting again measures and compiles nothing anew"


@pytest.mark.slow
def test_experts_in_int4(tmp_path: Path) -> None:
    """From weights to a bundle whose experts GPTQ has rounded and whose kernels read them."""
    mixture(tmp_path)
    experts = {kind: ["int4-g32-asym"] for kind in ("gate_up", "down")}
    precision = {**SPACE["precision"], "groups": {kind: ["int8"] for kind in KINDS} | experts}
    spec: dict[str, object] = {
        "source": "tiny",
        "evaluation": {"num_sequences": 4, "tokens_per_sequence": 32},
        "gate": {"max_kl": 0.5},
        "quantization": {"method": "gptq", "calibration": {"num_sequences": 8, "tokens_per_sequence": 32}},
    }
    bundle = run(tmp_path, spec, SPACE | {"precision": precision})
    manifest = verify_bundle(bundle)
    schemes = manifest.precision.groups
    assert {schemes[f"layers.{layer}.experts_{kind}"] for layer in range(2) for kind in ("gate_up", "down")} == {
        "int4-g32-asym"
    }
    frozen = FrozenKernels.read(bundle / "kernels" / "sm_90").kernels.values()
    assert {"moe_matmul_int4_kernel", "quant_matmul_int8_kernel"} <= {kernel.source.function for kernel in frozen}
    assert not {kernel.source.function for kernel in frozen} & {"moe_matmul_kernel", "quant_matmul_int4_kernel"}
    assert manifest.evaluated == "emulated"


#: heads of 256 and 512, as published
GEMMA4 = Gemma4TextConfig(
    vocab_size=320,
    hidden_size=256,
    intermediate_size=256,
    num_hidden_layers=4,
    num_attention_heads=8,
    num_key_value_heads=1,
    layer_types=["sliding_attention", "full_attention"] * 2,
    num_kv_shared_layers=2,
    hidden_size_per_layer_input=64,
    vocab_size_per_layer_input=320,
    max_position_embeddings=256,
)


#: beside the dense network of what else is GEMMA4
GEMMA4_EXPERTS = {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 64}


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "gemma4_text", "gemma4_text, experts"])
def test_a_planning_bundle_of_shapes_alone(tiny_llama: Path, tmp_path: Path, family: str) -> None:
    config = tiny_llama / "config.json"
    if family != "llama":
        config = tmp_path / "config.json"
        config.write_text(json.dumps(GEMMA4.to_dict() | (GEMMA4_EXPERTS if "experts" in family else {})))
    bundle = run(tmp_path, {"source": "random", "name": "shapes", "config": str(config)})
    manifest = verify_bundle(bundle)
    assert manifest.purpose == "planning" and not manifest.weight_files
    assert FrozenKernels.read(bundle / "kernels" / "sm_90").kernels
    with pytest.raises(PlanningOnlyError, match="made for planning"):
        load(bundle)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("source: random\n", "needs config, the path of a config.json"),
        ("source: random\nconfig: config.json\n", "plans for a GPU"),
        ("source: tiny\nconfig: config.json\n", "config is for source: random"),
    ],
)
def test_a_random_source_that_is_not_thought_through(tiny_llama: Path, tmp_path: Path, text: str, fault: str) -> None:
    (tmp_path / "tiny").symlink_to(tiny_llama)
    (tmp_path / "config.json").write_text((tiny_llama / "config.json").read_text())
    (tmp_path / "model.yaml").write_text(text)
    result = CliRunner().invoke(optimize, [str(tmp_path / "model.yaml")])
    assert result.exit_code == 1 and fault in result.output


@pytest.mark.slow
def test_activations_in_f16(tiny_llama: Path, tmp_path: Path) -> None:
    """int8 weights, and kernels that take and give f16: nothing is left of bf16 but weights that no scheme rounds."""
    config = str(tiny_llama / "config.json")
    bundle = run(tmp_path, {"source": "random", "name": "shapes", "config": config, "activations": "f16"})
    manifest = verify_bundle(bundle)
    assert "int8" in manifest.precision.groups.values() and [k.activations for k in manifest.kernels] == ["f16"]
    kernels = FrozenKernels.read(bundle / "kernels" / "sm_90").kernels.values()
    products = [kernel.source.signature for kernel in kernels if "quant" in kernel.source.function]
    assert products and all("*fp16" in repr(signature) and "*bf16" not in repr(signature) for signature in products)


def test_a_cpu_has_no_choice_of_activations(tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "model.yaml").write_text(f"source: {tiny_llama}\nactivations: f16\noutput: out\n")
    result = CliRunner().invoke(optimize, [str(tmp_path / "model.yaml")])
    assert result.exit_code == 1 and "activations is for GPUs, and kernels of a CPU compute in fp32" in result.output
