"""Mixtures of experts, latent attention, sinks, and layers that differ, from `optimize` to what is served."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, DeepseekV3Config, Gemma4TextConfig, GptOssConfig, MixtralConfig, PreTrainedConfig

from artifacts.precision import Scheme
from artifacts.reader import open_bundle
from kernels.cpu.host import host
from optimizer.importers import open_source
from runtime.loading import load_runner
from runtime.scoring import score
from tests.optimizer.conftest import Project
from tests.rounded_weights import round_weights
from tests.server.serving_process import ask, serving
from tests.tiny_models import SIZES, save_tiny

LATENT = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 32,
    "q_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "moe_intermediate_size": 32,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_group": 4,
    "topk_group": 2,
    "first_k_dense_replace": 1,
}
CONFIGS: dict[str, PreTrainedConfig] = {
    "mixtral": MixtralConfig(vocab_size=300, **SIZES, num_local_experts=4),
    "deepseek_v3": DeepseekV3Config(vocab_size=300, **SIZES | LATENT),
    "gemma4_text": Gemma4TextConfig(
        vocab_size=300,
        **SIZES | {"num_hidden_layers": 4},
        head_dim=16,
        global_head_dim=32,
        sliding_window=16,
        layer_types=["sliding_attention", "full_attention"] * 2,
        num_kv_shared_layers=2,
        hidden_size_per_layer_input=32,
        vocab_size_per_layer_input=300,
    ),
    "gemma4_text, experts": Gemma4TextConfig(
        vocab_size=300,
        **SIZES,
        head_dim=16,
        global_head_dim=32,
        sliding_window=16,
        layer_types=["sliding_attention", "full_attention"],
        attention_k_eq_v=True,
        num_global_key_value_heads=1,
        hidden_size_per_layer_input=0,
        enable_moe_block=True,
        num_experts=4,
        top_k_experts=2,
        moe_intermediate_size=32,
    ),
    "gpt_oss": GptOssConfig(
        vocab_size=300, **SIZES, head_dim=16, num_local_experts=4, num_experts_per_tok=2, sliding_window=16
    ),
}


@pytest.fixture(params=CONFIGS)
def tiny_mixture(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[request.param])
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    return save_tiny(tmp_path_factory.mktemp("source") / "tiny", model)


@pytest.mark.slow
def test_experts_from_optimize_to_what_is_served(tiny_mixture: Path, tmp_path: Path) -> None:
    """Against transformers with the bundle's own values in place of its weights."""
    (tmp_path / "tiny").symlink_to(tiny_mixture)
    project = Project(tmp_path)
    project.write({"search": {"trials": 2}, "gate": {"max_kl": 100.0}}, ["int8", "int4-g32-sym"])
    result = project.optimize()
    assert result.exit_code == 0, result.output
    bundle = open_bundle(project.bundle, machine=host().machine, cpu_flags=host().flags)
    groups = bundle.manifest.precision.groups
    assert set(groups) == set(bundle.manifest.architecture.linear_shapes())

    model = AutoModelForCausalLM.from_pretrained(tiny_mixture)
    round_weights(model, open_source(tiny_mixture), {group: Scheme.parse(name) for group, name in groups.items()})
    text = np.random.default_rng(0).integers(4, 300, 40).tolist()
    with torch.inference_mode():
        theirs = model(torch.tensor([text])).logits[0].numpy()
    ours = score(load_runner(bundle), text)
    assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max()

    with serving(project.bundle, project.folder / "stderr") as server:
        assert ask(server, "Hi", max_tokens=3).usage.completion_tokens == 3
