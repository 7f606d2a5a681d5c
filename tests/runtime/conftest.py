"""Small random models as the optimizer sees them, and one build of the kernels, for the whole folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
from transformers import (
    DeepseekV2Config,
    DeepseekV3Config,
    Gemma2Config,
    Gemma3TextConfig,
    Gemma4TextConfig,
    Gemma4UnifiedTextConfig,
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
from artifacts.layer_groups import plain_group
from artifacts.manifest import Limits
from artifacts.precision import KvDtype, Scheme
from kernels.cpu.library import Library
from optimizer.importers import Source, open_source
from optimizer.weights.quantized_store import QuantizedStore
from optimizer.weights.rare_experts import RareExperts, divided
from runtime.decoder import StepProgram, lay_out
from runtime.model_runner import ProgramRunner
from tests.importers.random_models import random_model, save_folder

#: No size is a multiple of every vector length; inner sizes are multiples of 32, so that every scheme fits.
SIZES = {
    "vocab_size": 203,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
#: caps that scores and logits of these sizes meet, scores that are not divided by the root of head_dim
GEMMA2 = {"head_dim": 24, "query_pre_attn_scalar": 40, "attn_logit_softcapping": 10.0, "final_logit_softcapping": 30.0}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}
WINDOWS_BY_TURNS = ["sliding_attention", "full_attention", "sliding_attention"]
#: of 8 dimensions of 16: no sequence here is longer than the original, so the short factors count
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "partial_rotary_factor": 0.5,
    "short_factor": [1.0, 1.1, 1.5, 2.0],
    "long_factor": [1.0, 2.0, 4.0, 8.0],
}
#: the last two layers can read the caches of the second and of the third
GEMMA4 = {
    "num_hidden_layers": 5,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "sliding_attention", "full_attention"],
    "head_dim": 16,
    "global_head_dim": 24,
    "sliding_window": 24,
    "hidden_size_per_layer_input": 32,
    "vocab_size_per_layer_input": 203,
}
GEMMA4_EXPERTS = {"enable_moe_block": True, "num_experts": 6, "top_k_experts": 3, "moe_intermediate_size": 32}
#: near those of granite-3.1-2b, which says 12, 0.015625, 0.22 and 8
GRANITE = {"embedding_multiplier": 12.0, "attention_multiplier": 0.15, "residual_multiplier": 0.22, "logits_scaling": 8.0}
ALL_ATTEND = {"layer_types": ["full_attention"] * 3, "shared_intermediate_size": 160}
#: no size is a multiple of a vector's length, and values are of another one than queries and keys
LATENT = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 20,
    "q_lora_rank": 32,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 6,
    "v_head_dim": 8,
    "moe_intermediate_size": 32,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "n_shared_experts": 2,
    "first_k_dense_replace": 1,
}
MSCALE = {"mscale": 0.7, "mscale_all_dim": 0.9}
LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}

#: Between them: every family, tied and not, 1, 2, 3 and 4 queries to a key, heads narrower and wider than hidden / heads,
#: biases, QK-norm, windows in some and in all layers, every scaling of rope.
CONFIGS: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**SIZES | {"num_key_value_heads": 4}),
    "llama, tied, biased, llama3": LlamaConfig(
        **SIZES | {"num_key_value_heads": 1}, tie_word_embeddings=True, attention_bias=True, rope_parameters=LLAMA3
    ),
    "llama, linear": LlamaConfig(**SIZES, head_dim=24, rope_parameters=LINEAR),
    "mistral": MistralConfig(**SIZES, sliding_window=24),
    "mistral, tied, yarn": MistralConfig(
        **SIZES, head_dim=24, sliding_window=19, tie_word_embeddings=True, rope_parameters=YARN
    ),
    "qwen2": Qwen2Config(**SIZES),
    "qwen2, tied, window": Qwen2Config(
        **SIZES, use_sliding_window=True, sliding_window=16, max_window_layers=1, tie_word_embeddings=True
    ),
    "qwen3": Qwen3Config(**SIZES | {"num_attention_heads": 6}, head_dim=32),
    "qwen3, tied, biased, yarn": Qwen3Config(
        **SIZES, head_dim=8, tie_word_embeddings=True, attention_bias=True, rope_parameters=YARN
    ),
    "gemma": GemmaConfig(**SIZES | {"num_key_value_heads": 1}, head_dim=24),
    "gemma2": Gemma2Config(**SIZES | GEMMA2, sliding_window=24),
    "gemma2, untied": Gemma2Config(
        **SIZES | GEMMA2, layer_types=["full_attention"] * 3, tie_word_embeddings=False, attention_bias=True
    ),
    "gemma3": Gemma3TextConfig(
        **SIZES,
        head_dim=24,
        query_pre_attn_scalar=40,
        sliding_window=24,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
    "gemma4": Gemma4TextConfig(
        **SIZES | GEMMA4 | {"num_key_value_heads": 1},
        num_kv_shared_layers=2,
        use_double_wide_mlp=True,
        final_logit_softcapping=9.0,
    ),
    "gemma4, keys are values": Gemma4TextConfig(
        **SIZES | GEMMA4 | {"hidden_size_per_layer_input": 0}, attention_k_eq_v=True, num_global_key_value_heads=1
    ),
    "gemma4, experts": Gemma4TextConfig(
        **SIZES | GEMMA4 | {"hidden_size_per_layer_input": 0} | GEMMA4_EXPERTS,
        attention_k_eq_v=True,
        num_global_key_value_heads=1,
        final_logit_softcapping=9.0,
    ),
    "gemma4 unified, biased": Gemma4UnifiedTextConfig(
        **SIZES, head_dim=16, global_head_dim=24, attention_k_eq_v=True, attention_bias=True, tie_word_embeddings=False
    ),
    "glm4": Glm4Config(**SIZES, head_dim=24, pad_token_id=None),
    "granite": GraniteConfig(**SIZES, **GRANITE, attention_bias=True, tie_word_embeddings=True),
    "olmo2": Olmo2Config(**SIZES, head_dim=24, attention_bias=True),
    "phi3": Phi3Config(**SIZES, sliding_window=24, pad_token_id=None),
    "phi3, partial, longrope": Phi3Config(
        **SIZES, pad_token_id=None, tie_word_embeddings=True, original_max_position_embeddings=128, rope_parameters=LONGROPE
    ),
    "mixtral": MixtralConfig(**SIZES, num_local_experts=4, sliding_window=24),
    "qwen3_moe": Qwen3MoeConfig(
        **SIZES, head_dim=24, num_experts=6, num_experts_per_tok=3, moe_intermediate_size=32, mlp_only_layers=[0]
    ),
    "qwen3_moe, normalized": Qwen3MoeConfig(
        **SIZES, head_dim=16, num_experts=20, num_experts_per_tok=4, moe_intermediate_size=64, norm_topk_prob=True
    ),
    "olmoe": OlmoeConfig(**SIZES, num_experts=6, num_experts_per_tok=3, norm_topk_prob=False),
    "granitemoe": GraniteMoeConfig(
        **SIZES,
        num_local_experts=4,
        embedding_multiplier=12.0,
        attention_multiplier=0.3,
        residual_multiplier=0.22,
        logits_scaling=0.5,
    ),
    "granitemoehybrid": GraniteMoeHybridConfig(
        **SIZES | ALL_ATTEND, **GRANITE, num_local_experts=0, num_experts_per_tok=0, position_embedding_type="rope"
    ),
    "granitemoehybrid, experts, without positions": GraniteMoeHybridConfig(
        **SIZES | ALL_ATTEND, embedding_multiplier=12.0, attention_multiplier=0.3, residual_multiplier=0.22, num_local_experts=4
    ),
    "deepseek_v2": DeepseekV2Config(
        **SIZES | LATENT | {"q_lora_rank": None, "kv_lora_rank": 64, "num_attention_heads": 16, "num_key_value_heads": 16},
        topk_method="group_limited_greedy",
        n_group=4,
        topk_group=2,
        rope_parameters=YARN | MSCALE,
    ),
    "deepseek_v3": DeepseekV3Config(**SIZES | LATENT, n_group=4, topk_group=2, rope_parameters=YARN | MSCALE),
    "gpt_oss": GptOssConfig(
        **SIZES,
        head_dim=24,
        num_local_experts=6,
        num_experts_per_tok=3,
        sliding_window=24,
        swiglu_limit=1.0,
        rope_parameters=YARN | {"truncate": False},
    ),
    "smollm3": SmolLM3Config(**SIZES, no_rope_layers=[1, 0, 1], tie_word_embeddings=False, pad_token_id=None),
}


@dataclass(frozen=True)
class Tiny:
    """A random model: transformers' own, and ours opened from what it saved."""

    model: PreTrainedModel
    source: Source
    store: QuantizedStore

    @property
    def architecture(self) -> Architecture:
        return self.source.architecture

    def plan(self, schemes: str | Mapping[str, str]) -> dict[str, Scheme]:
        """One scheme for every layer group, or each its own. `A, rare B` gives B to rare experts."""
        if isinstance(schemes, str):
            scheme, _, of_rare = schemes.partition(", rare ")
            named = {g: scheme if plain_group(g) == g else of_rare or scheme for g in self.architecture.linear_shapes()}
        else:
            named = dict(schemes)
        return {group: Scheme.parse(name) for group, name in named.items()}

    def step(self, schemes: str | Mapping[str, str], limits: Limits, kv_dtype: KvDtype = "fp32") -> StepProgram:
        plan = self.plan(schemes)
        return lay_out(self.architecture, plan, kv_dtype, self.store.plan_tensors(plan), limits)

    def runner(
        self, library: Library, schemes: str | Mapping[str, str], limits: Limits, kv_dtype: KvDtype = "fp32"
    ) -> ProgramRunner:
        """A compiled runner over a cache of its own."""
        step = self.step(schemes, limits, kv_dtype)
        return ProgramRunner(step, library.compile(step.program, limits.num_threads))


#: what the names of models end in, some of whose experts stand apart
RARE = ", rare"


def rare_apart(source: Source) -> Source:
    """Of the experts of each layer the first, of every other the last two."""
    a = source.architecture
    assert a.moe is not None
    last, layers = a.moe.num_experts - 1, [i for i in range(a.num_layers) if a.is_moe(i)]
    hits = [{0: 0} if i % 2 else {last - 1: 0, last: 0} for i in layers]
    return divided(source, [RareExperts(i, of, last + 1, 1) for i, of in zip(layers, hits, strict=True)])


def limits(**changes: int) -> Limits:
    """Room for one long sequence, or for several short ones."""
    room = {"kv_block_size": 16, "num_kv_blocks": 16, "max_num_seqs": 4, "max_num_batched_tokens": 32, "max_model_len": 128}
    return Limits(**room | {"num_threads": 1} | changes)


def moderate(model: PreTrainedModel) -> PreTrainedModel:
    """Random parameters of a size at which attention looks at several positions and logits at several tokens."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "embed" not in name:
                parameter *= 2 * parameter.shape[-1] ** -0.5
            elif name.endswith("norm.weight"):
                parameter.mul_(0.2).add_(1)
    return model.eval()


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread() -> None:
    """Threads cost more than they save on models of this size."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def library(kernels_path: Path) -> Library:
    return Library(kernels_path)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Tiny]:
    """A model of CONFIGS by name; `NAME, rare` is the one whose experts stand in two layer groups."""

    @cache
    def make(name: str) -> Tiny:
        plain = name.removesuffix(RARE)
        if name != plain:
            model, source = make(plain).model, rare_apart(make(plain).source)
        else:
            model = moderate(random_model(CONFIGS[name]))
            source = open_source(save_folder(model, tmp_path_factory.mktemp("model")))
        return Tiny(model, source, QuantizedStore(source, tmp_path_factory.mktemp("store")))

    return make
