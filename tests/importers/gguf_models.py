"""Small random models of every family in GGUF, and what llama.cpp's converter writes of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
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
    MixtralConfig,
    Olmo2Config,
    OlmoeConfig,
    Phi3Config,
    PreTrainedConfig,
    Qwen3MoeConfig,
    SmolLM3Config,
)

from optimizer.importers import Source, open_source
from tests.importers.gguf_writing import write_gguf
from tests.importers.random_models import SIZES, random_model, save_folder

LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "partial_rotary_factor": 0.5,
    "short_factor": [1.0, 1.08],
    "long_factor": [1.5, 4.25],
}
PHI3_LONG = Phi3Config(**SIZES, original_max_position_embeddings=32, rope_parameters=LONGROPE, pad_token_id=None)
FACTORS = {f"rope_factors_{length}.weight": np.array(LONGROPE[f"{length}_factor"], np.float32) for length in ("long", "short")}
GRANITE = {"attention_multiplier": 0.22, "embedding_multiplier": 12.0, "residual_multiplier": 0.3, "logits_scaling": 8.0}
SCALES = {"attention.scale": 0.22, "embedding_scale": 12.0, "residual_scale": 0.3, "logit_scale": 8.0}
HYBRID = {"layer_types": ["full_attention"] * 3, "shared_intermediate_size": 96, "mamba_n_heads": 4}


LATENT = SIZES | {
    "num_key_value_heads": 4,
    "kv_lora_rank": 16,
    "q_lora_rank": 24,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 10,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "n_shared_experts": 2,
    "first_k_dense_replace": 1,
}  # fmt: skip
LATENT_KEYS = {
    f"deepseek2.{key}": value
    for key, value in {
        "attention.head_count_kv": 1,
        "attention.key_length": 24,
        "attention.value_length": 16,
        "attention.key_length_mla": 20,
        "attention.value_length_mla": 10,
        "attention.kv_lora_rank": 16,
        "attention.q_lora_rank": 24,
        "rope.dimension_count": 8,
        "leading_dense_block_count": 1,
        "expert_count": 8,
        "expert_used_count": 2,
        "expert_feed_forward_length": 32,
        "expert_shared_count": 2,
    }.items()
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
    "mscale": 0.707,
    "mscale_all_dim": 0.707,
}


def granite(architecture: str, **experts: int) -> dict[str, Any]:
    return {f"{architecture}.{key}": value for key, value in (SCALES | experts).items()}


SEVEN = SIZES | {"num_hidden_layers": 7}
#: Gemma 4's: two kinds of layers
LAYERED = SIZES | {
    "num_hidden_layers": 5,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention", "full_attention"],
    "head_dim": 16,
    "global_head_dim": 32,
    "sliding_window": 24,
    "vocab_size_per_layer_input": 96,
}
LAYERED_KEYS = {
    "gemma4.attention.key_length": 32,
    "gemma4.attention.value_length": 32,
    "gemma4.attention.key_length_swa": 16,
    "gemma4.attention.value_length_swa": 16,
    "gemma4.attention.sliding_window": 24,
    "gemma4.attention.sliding_window_pattern": [True, True, False, True, False],
    "gemma4.attention.shared_kv_layers": 0,
    "gemma4.embedding_length_per_layer_input": 0,
    "gemma4.rope.dimension_count": 32,
    "gemma4.rope.dimension_count_swa": 16,
    "gemma4.rope.freq_base_swa": 1e4,
    "gemma4.final_logit_softcapping": 0.0,
}
QUARTER = {"rope_freqs.weight": np.array([1] * 4 + [1e30] * 12, np.float32)}

#: a config, what the converter writes of it beside what it writes of every family, and further tensors
FAMILIES: dict[str, tuple[PreTrainedConfig, dict[str, Any], dict[str, np.ndarray]]] = {
    "gemma2": (
        Gemma2Config(**SIZES, head_dim=16, query_pre_attn_scalar=16, sliding_window=24),
        {
            "gemma2.attention.sliding_window": 24,
            "gemma2.attn_logit_softcapping": 50.0,
            "gemma2.final_logit_softcapping": 30.0,
        },
        {},
    ),
    "gemma2, silent": (Gemma2Config(**SIZES, head_dim=16, query_pre_attn_scalar=16), {}, {}),
    "gemma3": (
        Gemma3TextConfig(**SEVEN, head_dim=16, query_pre_attn_scalar=16, sliding_window=24),
        {"gemma3.attention.sliding_window": 24},
        {},
    ),
    "gemma3, linear, capped": (
        Gemma3TextConfig(
            **SEVEN,
            head_dim=16,
            query_pre_attn_scalar=16,
            sliding_window=200,
            final_logit_softcapping=20.0,
            rope_parameters={
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 5e3},
            },
        ),
        {
            "gemma3.attention.sliding_window": 200,
            "gemma3.final_logit_softcapping": 20.0,
            "gemma3.rope.scaling.type": "linear",
            "gemma3.rope.scaling.factor": 8.0,
            "gemma3.rope.freq_base_swa": 5e3,
        },
        {},
    ),
    "gemma3, by layer": (
        Gemma3TextConfig(
            **SIZES,
            head_dim=16,
            query_pre_attn_scalar=16,
            sliding_window=24,
            layer_types=["full_attention", "sliding_attention", "full_attention"],
        ),
        {"gemma3.attention.sliding_window": 24, "gemma3.attention.sliding_window_pattern": [False, True, False]},
        {},
    ),
    "gemma4": (
        Gemma4TextConfig(
            **LAYERED,
            hidden_size_per_layer_input=32,
            num_kv_shared_layers=2,
            use_double_wide_mlp=True,
            final_logit_softcapping=30.0,
        ),
        {
            **LAYERED_KEYS,
            "gemma4.feed_forward_length": [64, 64, 64, 128, 128],
            "gemma4.attention.shared_kv_layers": 2,
            "gemma4.embedding_length_per_layer_input": 32,
            "gemma4.final_logit_softcapping": 30.0,
        },
        QUARTER,
    ),
    "gemma4, keys as values": (
        Gemma4TextConfig(
            **LAYERED,
            hidden_size_per_layer_input=0,
            attention_k_eq_v=True,
            num_global_key_value_heads=1,
            tie_word_embeddings=False,
        ),
        {**LAYERED_KEYS, "gemma4.attention.head_count_kv": [2, 2, 1, 2, 1]},
        QUARTER,
    ),
    "gemma4, experts": (
        Gemma4TextConfig(
            **LAYERED,
            hidden_size_per_layer_input=0,
            attention_k_eq_v=True,
            num_global_key_value_heads=1,
            enable_moe_block=True,
            num_experts=6,
            top_k_experts=2,
            moe_intermediate_size=32,
        ),
        {
            **LAYERED_KEYS,
            "gemma4.attention.head_count_kv": [2, 2, 1, 2, 1],
            "gemma4.expert_count": 6,
            "gemma4.expert_used_count": 2,
            "gemma4.expert_feed_forward_length": 32,
        },
        QUARTER,
    ),
    "glm4": (Glm4Config(**SIZES, head_dim=16, pad_token_id=None), {"glm4.rope.dimension_count": 8}, {}),
    "phi3": (
        Phi3Config(**SIZES, sliding_window=24, pad_token_id=None),
        {"phi3.attention.sliding_window": 24, "phi3.rope.scaling.original_context_length": 4096},
        {},
    ),
    "phi3, longrope": (
        PHI3_LONG,
        {
            "phi3.rope.dimension_count": 4,
            "phi3.rope.scaling.type": "longrope",
            "phi3.rope.scaling.original_context_length": 32,
            "phi3.rope.scaling.attn_factor": (1 + 2 / 5) ** 0.5,
        },
        FACTORS,
    ),
    "gemma": (GemmaConfig(**SIZES, head_dim=16), {}, {}),
    "granite": (
        GraniteConfig(**SIZES, **GRANITE, attention_bias=True),
        granite("granite"),
        {},
    ),
    "granite, silent": (GraniteConfig(**SIZES, attention_multiplier=8**-0.5, tie_word_embeddings=True), {}, {}),
    "olmo2": (Olmo2Config(**SIZES, pad_token_id=None), {}, {}),
    "smollm3": (SmolLM3Config(**SEVEN, pad_token_id=None), {}, {}),
    "mixtral": (
        MixtralConfig(**SIZES, num_local_experts=4, sliding_window=None),
        {"llama.expert_count": 4, "llama.expert_used_count": 2},
        {},
    ),
    "qwen3_moe": (
        Qwen3MoeConfig(
            **SIZES, head_dim=16, num_experts=6, num_experts_per_tok=3, moe_intermediate_size=32, norm_topk_prob=True
        ),
        {"qwen3moe.expert_count": 6, "qwen3moe.expert_used_count": 3, "qwen3moe.expert_feed_forward_length": 32},
        {},
    ),
    "olmoe": (
        OlmoeConfig(**SIZES | {"num_key_value_heads": 4}, num_experts=4, num_experts_per_tok=2, pad_token_id=None),
        {"olmoe.expert_count": 4, "olmoe.expert_used_count": 2},
        {},
    ),
    "granitemoe": (
        GraniteMoeConfig(**SIZES, **GRANITE, num_local_experts=4, tie_word_embeddings=True),
        granite("granitemoe", expert_count=4, expert_used_count=2),
        {},
    ),
    "gpt_oss": (
        GptOssConfig(
            **SIZES,
            head_dim=16,
            num_local_experts=4,
            num_experts_per_tok=2,
            sliding_window=24,
            rope_parameters={
                "rope_type": "yarn",
                "rope_theta": 1.5e5,
                "factor": 4.0,
                "original_max_position_embeddings": 32,
                "beta_fast": 16.0,
            },
        ),
        {
            f"gpt-oss.{key}": value
            for key, value in {
                "attention.sliding_window": 24,
                "expert_count": 4,
                "expert_used_count": 2,
                "expert_feed_forward_length": 64,
                "rope.scaling.type": "yarn",
                "rope.scaling.factor": 4.0,
                "rope.scaling.original_context_length": 32,
                "rope.scaling.yarn_beta_fast": 16.0,
            }.items()
        },
        {},
    ),
    "deepseek_v2": (DeepseekV2Config(**LATENT), {**LATENT_KEYS, "deepseek2.expert_gating_func": 1}, {}),
    "deepseek_v3": (
        DeepseekV3Config(**LATENT, n_group=4, topk_group=2, rope_parameters=YARN),
        {
            **LATENT_KEYS,
            "deepseek2.expert_gating_func": 2,
            "deepseek2.expert_group_count": 4,
            "deepseek2.expert_group_used_count": 2,
            "deepseek2.expert_weights_norm": True,
            "deepseek2.expert_weights_scale": 2.5,
            "deepseek2.rope.scaling.type": "yarn",
            "deepseek2.rope.scaling.factor": 4.0,
            "deepseek2.rope.scaling.original_context_length": 32,
            "deepseek2.rope.scaling.yarn_log_multiplier": 0.0707,
        },
        {},
    ),
    "granitemoehybrid": (
        GraniteMoeHybridConfig(**SIZES | HYBRID, **GRANITE, num_local_experts=4, position_embedding_type="rope"),
        granite("granitemoe", expert_count=4, expert_used_count=2, expert_shared_feed_forward_length=96),
        {},
    ),
}


def opened(name: str, folder: Path, **options: Any) -> tuple[Source, Source]:
    """From Hugging Face's folder, from GGUF."""
    config, metadata, extra = FAMILIES[name]
    model = random_model(config)
    with torch.no_grad():  # gains as models have them: less one they are below and above zero
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.mul_(3)
    folder.mkdir(exist_ok=True)
    metadata, extra = metadata | options.pop("metadata", {}), extra | options.pop("extra", {})
    written = write_gguf(folder / "model.gguf", model, metadata=metadata, extra=extra, **options)
    return open_source(save_folder(model, folder / "hf")), open_source(written)
