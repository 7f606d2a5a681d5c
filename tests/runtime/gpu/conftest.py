"""Small random models of every kind that GPUs have kernels for, and their step programs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import torch
from transformers import (
    DeepseekV2Config,
    DeepseekV3Config,
    Gemma2Config,
    Gemma3TextConfig,
    Gemma4TextConfig,
    GemmaConfig,
    Glm4Config,
    GptOssConfig,
    GraniteConfig,
    GraniteMoeConfig,
    GraniteMoeHybridConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    OlmoeConfig,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
    SmolLM3Config,
)

from artifacts.architecture import Architecture
from artifacts.manifest import Limits
from artifacts.precision import KvDtype, Scheme
from optimizer.importers import Source, open_source
from optimizer.quantization import ROUND_TO_NEAREST, Calibration, Method, with_static_activations
from optimizer.quantization.packed import GPU_LAYOUT
from optimizer.weights.quantized_store import QuantizedStore
from runtime.gpu.decoder import lay_out_gpu
from runtime.gpu.program import GpuProgram
from runtime.gpu.weights import to_device, to_torch
from tests.importers.random_models import random_model, save_folder

#: Kernels want inner sizes that are multiples of 16, quantized ones of 32.
SIZES = {
    "vocab_size": 99,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
#: caps that scores and logits of these sizes meet, scores that are not divided by the root of head_dim
GEMMA2 = {"head_dim": 16, "query_pre_attn_scalar": 24, "attn_logit_softcapping": 10.0, "final_logit_softcapping": 4.0}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
#: of latent attention: the rank and the rotated part are powers of two of at least 16
LATENT = SIZES | EXPERTS | {
    "num_key_value_heads": 4,
    "kv_lora_rank": 32,
    "q_lora_rank": 64,  # as wide as the hidden state, so that rounded activations could overwrite each other
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 16,
    "v_head_dim": 16,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "first_k_dense_replace": 1,
}  # fmt: skip
DEEPSEEK_YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
    "mscale": 1.0,
    "mscale_all_dim": 0.7,
}
#: the last two layers can read the caches of the two before them
GEMMA4 = {
    "num_hidden_layers": 4,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "head_dim": 16,
    "global_head_dim": 32,
    "sliding_window": 7,
    "hidden_size_per_layer_input": 32,
    "vocab_size_per_layer_input": 99,
}
#: near those of granite-3.1-2b, which says 12, 0.015625, 0.22 and 8
GRANITE = {"embedding_multiplier": 12.0, "attention_multiplier": 0.15, "residual_multiplier": 0.22, "logits_scaling": 8.0}

CONFIGS: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**SIZES | {"num_key_value_heads": 1}, tie_word_embeddings=True),
    "qwen2": Qwen2Config(**SIZES),
    "qwen3": Qwen3Config(**SIZES, head_dim=32),
    "mistral": MistralConfig(**SIZES, sliding_window=7),
    "gemma": GemmaConfig(**SIZES, head_dim=16),
    "gemma2": Gemma2Config(**SIZES | GEMMA2, sliding_window=7),
    "gemma3": Gemma3TextConfig(
        **SIZES, head_dim=16, query_pre_attn_scalar=24, sliding_window=7, layer_types=["sliding_attention", "full_attention"]
    ),
    "gemma4": Gemma4TextConfig(**SIZES | GEMMA4, num_kv_shared_layers=2, use_double_wide_mlp=True, final_logit_softcapping=9.0),
    "gemma4, keys are values": Gemma4TextConfig(
        **SIZES | GEMMA4 | {"hidden_size_per_layer_input": 0}, attention_k_eq_v=True, num_global_key_value_heads=1
    ),
    "gemma4, experts": Gemma4TextConfig(
        **SIZES | GEMMA4 | {"hidden_size_per_layer_input": 0, "enable_moe_block": True, "num_experts": 6},
        top_k_experts=2,
        moe_intermediate_size=32,
        attention_k_eq_v=True,
        num_global_key_value_heads=1,
    ),
    "glm4": Glm4Config(**SIZES, head_dim=16, pad_token_id=None),
    "granite": GraniteConfig(**SIZES, **GRANITE),
    "olmo2": Olmo2Config(**SIZES),
    "phi3": Phi3Config(**SIZES, pad_token_id=None, partial_rotary_factor=0.5),
    "smollm3": SmolLM3Config(**SIZES, no_rope_layers=[1, 0], pad_token_id=None),
    "mixtral": MixtralConfig(**SIZES | {"intermediate_size": 64}, num_local_experts=4, sliding_window=None),
    "olmoe": OlmoeConfig(**SIZES, num_experts=4, num_experts_per_tok=2),
    "granitemoe": GraniteMoeConfig(**SIZES, **GRANITE, num_local_experts=4),
    "granitemoehybrid": GraniteMoeHybridConfig(
        **SIZES,
        **GRANITE,
        layer_types=["full_attention"] * 2,
        shared_intermediate_size=96,
        num_local_experts=4,
        position_embedding_type="rope",
    ),
    "qwen3_moe": Qwen3MoeConfig(**SIZES, **EXPERTS, head_dim=16, num_experts=6, norm_topk_prob=True, mlp_only_layers=[0]),
    "gpt_oss": GptOssConfig(
        **SIZES, head_dim=16, num_local_experts=4, num_experts_per_tok=2, sliding_window=7, swiglu_limit=1.0
    ),
    "deepseek_v2": DeepseekV2Config(**LATENT, topk_method="group_limited_greedy", n_group=4, topk_group=2),
    "deepseek_v2, lite": DeepseekV2Config(**LATENT | {"q_lora_rank": None}, rope_parameters=DEEPSEEK_YARN),
    "deepseek_v3": DeepseekV3Config(**LATENT, n_group=4, topk_group=2, rope_parameters=DEEPSEEK_YARN),
    #: an expert's rows are whole blocks of fp8-block, and its columns more than one
    "deepseek_v3, wide": DeepseekV3Config(
        **LATENT | {"hidden_size": 256, "q_lora_rank": 256, "moe_intermediate_size": 192}, n_group=4, topk_group=2
    ),
}
HOST = torch.device("cpu")
#: what static scales of activations are found on
CALIBRATION_TEXT = np.random.default_rng(5).integers(0, 99, 100).tolist()


@dataclass(frozen=True)
class Small:
    """A random model: transformers' own, and ours opened from what it saved."""

    model: PreTrainedModel
    source: Source
    store: QuantizedStore

    @property
    def architecture(self) -> Architecture:
        return self.source.architecture

    def plan(self, schemes: str | Mapping[str, str]) -> dict[str, Scheme]:
        """One scheme for every layer group, or each its own; `embed` and the head stay bf16 unless they are named."""
        if isinstance(schemes, str):
            schemes = dict.fromkeys(self.architecture.linear_shapes(), schemes) | {"embed": "bf16"}
        return {group: Scheme.parse(name) for group, name in schemes.items()}

    def program(
        self, schemes: str | Mapping[str, str], act: torch.dtype, room: Limits, kv_dtype: KvDtype = "bf16"
    ) -> GpuProgram:
        """A step program on the host, with a cache of its own."""
        plan = self.plan(schemes)
        placed = to_device(to_torch(self.store.plan_tensors(plan)), plan, act, HOST)
        return lay_out_gpu(self.architecture, plan, kv_dtype, placed, room, act, HOST)


def moderated(model: PreTrainedModel) -> PreTrainedModel:
    """Random parameters, exact in bf16, at which attention looks at several positions and logits at several tokens."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2:
                parameter *= (1 if "embed" in name else 2) * parameter.shape[-1] ** -0.5
                parameter.copy_(parameter.bfloat16())
            elif name.endswith("norm.weight"):
                parameter.mul_(0.2).add_(1)
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.uniform_(-0.1, 0.3)
    return model.eval()


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Small]:
    """A model of CONFIGS by name."""

    @cache
    def make(name: str) -> Small:
        model = moderated(random_model(CONFIGS[name]))
        folder = save_folder(model, tmp_path_factory.mktemp("model"))
        model.name_or_path = str(folder)
        source = open_source(folder)
        return Small(model, source, QuantizedStore(source, tmp_path_factory.mktemp("store"), GPU_LAYOUT, method(source)))

    def method(source: Source) -> Method:
        if source.architecture.moe or source.architecture.mla:
            return ROUND_TO_NEAREST
        calibration = Calibration(source, [CALIBRATION_TEXT], tmp_path_factory.mktemp("calibration"))
        return with_static_activations(ROUND_TO_NEAREST, calibration)

    return make
