"""How the families stand in GGUF files: what llama.cpp's converter writes, and what its loader reads or takes for granted.

Sources: conversion/, src/models/ and src/llama-model.cpp of llama.cpp as llama-cpp-python 0.3.36 carries it; names of tensors
are the gguf package's own (decision 0058).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gguf.constants import MODEL_ARCH, MODEL_ARCH_NAMES, ExpertGatingFuncType
from gguf.tensor_mapping import TensorNameMap, get_tensor_name_map


@dataclass(frozen=True)
class Windows:
    """Which layers have the sliding window, in tokens, of `attention.sliding_window`."""

    full_every: int = 0
    """Every so many layers one has full attention, the last of each such group, unless the file has another number or an array
    in `attention.sliding_window_pattern`. 0: all layers have the window."""
    default: int = 0
    """The window of a file that states none."""
    theta: float | None = None
    """The rope base of layers with the window, where the file states none; None: they turn as all do."""
    applied: bool = True
    """Whether llama.cpp applies the window; where it does not, contexts up to it are computed alike."""


@dataclass(frozen=True)
class GgufFamily:
    """One family. Defaults are what most have."""

    architecture: str
    """`general.architecture`, and the first word of the file's keys."""
    neighbours_turn: bool = False
    """Whether rows of q and k that turn together, i and i + head_dim / 2, stand side by side."""
    biases: tuple[str, ...] = ()
    """Of which of `qkv` and `o` llama.cpp reads biases."""
    windows: Windows | None = None
    """None: the format has no words for them."""
    keys: Mapping[str, str] = field(default_factory=dict)
    """Key of the file, behind the architecture -> key of config.json that means the same."""
    of_experts: Mapping[str, str] = field(default_factory=dict)
    """Likewise, of files with experts, where others of the family have none."""
    joined_experts: bool = False
    """Whether llama.cpp's converter writes gate and up of experts as one tensor; it reads them apart, too."""
    granted: Mapping[str, object] = field(default_factory=dict)
    """Key of config.json -> what llama.cpp takes where the file has no key, or has none for it."""
    wide_scores: int | None = None
    """Scores are divided by the root of head_dim; in a model of this many layers, of hidden_size / num_heads instead."""
    needs: Mapping[str, bool] = field(default_factory=dict)
    """Fields of an architecture that llama.cpp's graph cannot be without (true), or cannot have."""
    turns_if_finetuned: bool = False
    """Whether a false `rope.scaling.finetuned` says that no layer knows positions; to most it says nothing."""
    without_experts: str | None = None
    """The family under which a model of this one is written that has no experts."""
    names_layers: bool = False
    """Whether config.json has a kind for each layer, where the file says nothing because all attend."""
    sigmoid: bool = False
    """Whether experts are scored by sigmoids, as `expert_gating_func` says."""
    without_q_rank: tuple[int, ...] = ()
    """Of latent attention: numbers of layers of which llama.cpp takes it for granted that queries are projected in one step."""
    heads_fill_hidden: bool = False
    """Whether llama.cpp wants num_heads * head_dim to be hidden_size."""
    rounds_yarn: bool = False
    """Whether a yarn ramp whose bounds are not whole dimensions is written all the same; llama.cpp rounds them."""
    keys_for_each_head: bool = False
    """Whether it wants as many heads of keys as of queries."""
    layers_differ: bool = False
    """Whether layers with a window have heads and a rope of their own, and the last ones may read caches of others."""
    vocabulary: str = "llama"
    """The kind of vocabulary that is written of a BPE of raw text."""

    def keys_of(self, has_experts: bool) -> Mapping[str, str]:
        """`keys` of a file with or without experts."""
        return {**self.keys, **(self.of_experts if has_experts else {})}


#: keys by which files of one architecture are of different families, where they and the first are not 0
_TELLING = {"expert_count", "expert_shared_feed_forward_length"}
_EXPERTS = {"expert_count": "num_local_experts", "expert_used_count": "num_experts_per_tok"}
_NAMED_EXPERTS = {"expert_count": "num_experts", "expert_used_count": "num_experts_per_tok"}
_LATENT = {
    "attention.kv_lora_rank": "kv_lora_rank",
    "attention.q_lora_rank": "q_lora_rank",
    "rope.dimension_count": "qk_rope_head_dim",
    "leading_dense_block_count": "first_k_dense_replace",
    "expert_count": "n_routed_experts",
    "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_count": "n_shared_experts",
    "expert_weights_scale": "routed_scaling_factor",
    "expert_weights_norm": "norm_topk_prob",
    "expert_group_count": "n_group",
    "expert_group_used_count": "topk_group",
}
_LATENT_GRANTED = {
    "q_lora_rank": None,
    "first_k_dense_replace": 0,
    "routed_scaling_factor": 1.0,
    "norm_topk_prob": False,
    "n_group": 1,
    "topk_group": 1,
}
_GRANITE = {
    "attention.scale": "attention_multiplier",
    "embedding_scale": "embedding_multiplier",
    "residual_scale": "residual_multiplier",
    "logit_scale": "logits_scaling",
}
_LAYERED = GgufFamily(
    "gemma4",
    windows=Windows(),
    keys={
        "final_logit_softcapping": "final_logit_softcapping",
        "attention.shared_kv_layers": "num_kv_shared_layers",
        "embedding_length_per_layer_input": "hidden_size_per_layer_input",
    },
    granted={"final_logit_softcapping": 30.0},
    needs={"layer_windows": True},
    of_experts=_NAMED_EXPERTS | {"expert_used_count": "top_k_experts", "expert_feed_forward_length": "moe_intermediate_size"},
    joined_experts=True,
    layers_differ=True,
    vocabulary="gemma4",
)
_CAPS = {"attn_logit_softcapping": "attn_logit_softcapping", "final_logit_softcapping": "final_logit_softcapping"}

#: by the `model_type` of config.json; of some that share an architecture `model_type` says which is meant
GGUF_FAMILIES: Mapping[str, GgufFamily] = {
    "llama": GgufFamily("llama", neighbours_turn=True, biases=("qkv", "o")),
    "mistral": GgufFamily("llama", neighbours_turn=True, windows=Windows(applied=False)),
    "qwen2": GgufFamily("qwen2", biases=("qkv",)),
    "qwen3": GgufFamily("qwen3"),
    "gemma": GgufFamily("gemma", needs={"tie_embeddings": True}),
    "gemma2": GgufFamily(
        "gemma2",
        windows=Windows(full_every=2, default=4096),
        keys=_CAPS,
        granted={"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
        wide_scores=46,
        needs={"tie_embeddings": True, "attention_softcap": True, "logit_softcap": True},
    ),
    "gemma3_text": GgufFamily(
        "gemma3",
        windows=Windows(full_every=6, theta=10000.0),
        keys={"final_logit_softcapping": "final_logit_softcapping"},
        wide_scores=62,
    ),
    "gemma4_text": _LAYERED,
    "gemma4_unified_text": _LAYERED,
    "glm4": GgufFamily("glm4", biases=("qkv",)),
    "granite": GgufFamily(
        "granite",
        neighbours_turn=True,
        biases=("qkv", "o"),
        keys=_GRANITE,
        turns_if_finetuned=True,
    ),
    "olmo2": GgufFamily("olmo2", needs={"tie_embeddings": False}, heads_fill_hidden=True),
    "phi3": GgufFamily("phi3", windows=Windows(applied=False), heads_fill_hidden=True),
    "smollm3": GgufFamily("smollm3", neighbours_turn=True, granted={"no_rope_layer_interval": 4}),
    "mixtral": GgufFamily("llama", neighbours_turn=True, biases=("qkv", "o"), windows=Windows(applied=False), keys=_EXPERTS),
    "qwen3_moe": GgufFamily(
        "qwen3moe",
        keys=_NAMED_EXPERTS | {"expert_feed_forward_length": "moe_intermediate_size"},
        granted={"norm_topk_prob": True},
    ),
    "olmoe": GgufFamily(
        "olmoe", keys=_NAMED_EXPERTS, needs={"tie_embeddings": False}, heads_fill_hidden=True, keys_for_each_head=True
    ),
    "granitemoe": GgufFamily(
        "granitemoe", neighbours_turn=True, biases=("qkv", "o"), keys=_GRANITE | _EXPERTS, turns_if_finetuned=True
    ),
    "granitemoehybrid": GgufFamily(
        "granitemoe",
        neighbours_turn=True,
        biases=("qkv", "o"),
        keys=_GRANITE | _EXPERTS | {"expert_shared_feed_forward_length": "shared_intermediate_size"},
        granted={"position_embedding_type": "rope"},
        turns_if_finetuned=True,
        without_experts="granite",
        names_layers=True,
    ),
    "gpt_oss": GgufFamily(
        "gpt-oss",
        biases=("qkv", "o"),
        windows=Windows(full_every=2, default=128),
        keys=_EXPERTS | {"expert_feed_forward_length": "intermediate_size"},
        needs={"tie_embeddings": False, "attention_sinks": True},
        rounds_yarn=True,
    ),
    "deepseek_v2": GgufFamily("deepseek2", keys=_LATENT, granted=_LATENT_GRANTED, without_q_rank=(26, 27)),
    "deepseek_v3": GgufFamily("deepseek2", keys=_LATENT, granted=_LATENT_GRANTED, without_q_rank=(26, 27), sigmoid=True),
}


def architectures() -> tuple[str, ...]:
    """Every `general.architecture` that is read."""
    return tuple(dict.fromkeys(family.architecture for family in GGUF_FAMILIES.values()))


def model_type(architecture: str, keys: Mapping[str, object], has_window: bool) -> str | None:
    """The family of a file of `architecture`, one of `architectures()`, with `keys` behind it; None if llama.cpp has none."""
    told = {key for key in _TELLING if keys.get(key) and keys.get("expert_count")}
    alike = [
        name
        for name, family in GGUF_FAMILIES.items()
        if family.architecture == architecture
        and told == _TELLING & family.keys_of(bool(keys.get("expert_count"))).keys()
        and family.sigmoid == (keys.get("expert_gating_func") == ExpertGatingFuncType.SIGMOID)
    ]
    return next((name for name in alike if has_window and GGUF_FAMILIES[name].windows), next(iter(alike), None))


def tensor_names(architecture: str, num_layers: int) -> TensorNameMap:
    """The gguf package's map from Hugging Face's names of tensors."""
    known: Mapping[str, MODEL_ARCH] = {name: arch for arch, name in MODEL_ARCH_NAMES.items()}
    return get_tensor_name_map(known[architecture], num_layers)


def gguf_name(names: TensorNameMap, name: str) -> str:
    """`model.layers.3.self_attn.q_proj.weight` -> `blk.3.attn_q.weight`; a name that GGUF does not have is its own."""
    name = name.replace(".e_score_correction_bias", ".e_score_correction.bias").replace(".sinks", ".sinks.weight")
    name = name.replace(".layer_scalar", ".layer_scalar.weight")
    # Scales of what stands beside them; tensors of all experts have no end in Hugging Face's names.
    name = name.replace(".router.scale", ".router.proj.scale").replace(".router.per_expert_scale", ".experts.down_proj.scale")
    name = f"{name}.weight" if name.endswith((".experts.gate_up_proj", ".experts.down_proj")) else name
    return names.get_name(name, try_suffixes=(".weight", ".bias", ".scale")) or name
