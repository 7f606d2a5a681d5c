"""An architecture as the metadata of a GGUF file, refused by name where a reader would take another model for it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gguf.constants import ExpertGatingFuncType
from numpy.typing import NDArray

from artifacts.architecture import Architecture
from artifacts.layer_parts import Rope
from optimizer.exporters.errors import ExportError
from optimizer.exporters.gguf_layers import full_attention_factors, layer_keys
from optimizer.importers.gguf_config import LONGROPE_FACTORS, ROPE_FACTORS, hf_config
from optimizer.importers.gguf_families import GGUF_FAMILIES, GgufFamily
from optimizer.importers.gguf_latents import YARN_LOG_MULTIPLIER
from runtime.models import UnsupportedModel, architecture
from runtime.rope import inverse_frequencies

_FP32_UNIT = 2.0**-24


def known_as(a: Architecture) -> Architecture:
    """`a`, under the name of the family as which it is written."""
    family = GGUF_FAMILIES.get(a.family)
    other = family.without_experts if family and a.moe is None else None
    return a.model_copy(update={"family": other}) if other else a


def gguf_family(a: Architecture) -> GgufFamily:
    """ExportError for a family that GGUF does not have, or that llama.cpp reads otherwise than `a` is."""
    family = GGUF_FAMILIES.get(a.family)
    if family is None:
        raise ExportError(f"a model can be exported of the families {', '.join(GGUF_FAMILIES)}, got {a.family!r}")
    if a.layer_windows and family.windows is None:
        raise ExportError(f"GGUF cannot express in which layers a {a.family} model has a sliding window; export it as onnx")
    for name, has_bias in (("qkv", a.qkv_bias), ("o", a.output_bias)):
        if has_bias and name not in family.biases:
            raise ExportError(
                f"llama.cpp's {family.architecture} has no biases of {name}, and this model has; "
                "export it as compressed-tensors or onnx"
            )
    own_factor = a.rope.attention_factor is not None and a.mla is None  # under latents it is read back
    if a.rope.scaling == "yarn" and (own_factor or not (a.rope.truncate or family.rounds_yarn)):
        what = "its own yarn attention_factor" if a.rope.truncate else "yarn's truncate: false"
        raise ExportError(f"a model with {what} cannot be exported as GGUF; export it as compressed-tensors or onnx")
    for field, needed in family.needs.items():
        if bool(getattr(a, field)) != needed:
            needs, has = ("needs", "none") if needed else ("cannot have", "it")
            raise ExportError(f"llama.cpp's {family.architecture} {needs} {field}, and this model has {has}; export it as onnx")
    if family.heads_fill_hidden and a.q_size != a.hidden_size:
        raise ExportError(
            f"llama.cpp's {family.architecture} needs num_heads * head_dim to be hidden_size, {a.hidden_size}, "
            f"and this model's is {a.q_size}; export it as onnx"
        )
    if family.keys_for_each_head and a.num_kv_heads != a.num_q_heads:
        raise ExportError(
            f"llama.cpp's {family.architecture} needs as many heads of keys as of queries, {a.num_q_heads}, and this model has "
            f"{a.num_kv_heads}; serve the bundle itself"
        )
    if a.mla and (a.mla.q_lora_rank is None) != (a.num_layers in family.without_q_rank):
        raise ExportError(
            f"llama.cpp's {family.architecture} reads {'no' if a.mla.q_lora_rank else 'a'} q_lora_rank of models of "
            f"{a.num_layers} layers, and this model's is {a.mla.q_lora_rank}; serve the bundle itself"
        )
    if a.mla and not (a.moe and a.moe.shared_intermediate_size):
        raise ExportError(f"llama.cpp's {family.architecture} needs shared experts, and this model has none; serve the bundle")
    return family


def architecture_metadata(a: Architecture, family: GgufFamily) -> dict[str, object]:
    """The keys of `family.architecture`, as llama.cpp's converter writes them."""
    values: dict[str, object] = {
        "vocab_size": a.vocab_size,
        "block_count": a.num_layers,
        "context_length": a.max_position,
        "embedding_length": a.hidden_size,
        "feed_forward_length": a.intermediate_size,
        "attention.head_count": a.num_q_heads,
        "attention.head_count_kv": a.num_kv_heads,
        "attention.key_length": a.head_dim,
        "attention.value_length": a.head_dim,
        "attention.layer_norm_rms_epsilon": a.rms_norm_eps,
        "rope.dimension_count": a.rope.turning(a.head_dim),
        "rope.freq_base": a.rope.theta,
        **_window_keys(a, family),
        **_rope_scaling_keys(a.rope),
        **_latent_keys(a),
        **(layer_keys(a) if family.layers_differ else {}),
    }
    stated: dict[str, float | None] = {
        "attn_logit_softcapping": a.attention_softcap,
        "final_logit_softcapping": a.logit_softcap,
        "attention.scale": a.score_scale,
        "embedding_scale": a.embedding_scale,
        "residual_scale": a.branch_scale,
        "logit_scale": a.logit_divisor,
    }
    if a.moe is not None:
        stated |= {
            "expert_count": a.moe.num_experts,
            "expert_used_count": a.moe.num_experts_per_token,
            "expert_feed_forward_length": a.moe.intermediate_size,
            "expert_shared_feed_forward_length": a.moe.shared_intermediate_size,
            "expert_shared_count": a.moe.shared_intermediate_size // a.moe.intermediate_size,
            "expert_weights_scale": a.moe.scaling,
            "expert_weights_norm": a.moe.normalized,
            "expert_group_count": a.moe.num_groups,
            "expert_group_used_count": a.moe.num_chosen_groups,
            "leading_dense_block_count": a.moe.first_layer,
        }
    known = family.keys_of(a.moe is not None)
    values |= {key: value for key, value in stated.items() if value and key in known}
    return {f"{family.architecture}.{key}": value for key, value in values.items()}


def _latent_keys(a: Architecture) -> dict[str, object]:
    """As llama.cpp sees latent attention: one head of keys, whose first columns are the values, beside the sizes of a head."""
    if a.mla is None:
        return {}
    keys: dict[str, object] = {
        "attention.head_count_kv": 1,
        "attention.key_length": a.mla.cache_dim,
        "attention.value_length": a.mla.kv_lora_rank,
        "attention.key_length_mla": a.head_dim,
        "attention.value_length_mla": a.mla.v_head_dim,
        "attention.kv_lora_rank": a.mla.kv_lora_rank,
        "rope.dimension_count": a.mla.rope_head_dim,
    }
    if a.mla.q_lora_rank is not None:
        keys["attention.q_lora_rank"] = a.mla.q_lora_rank
    if a.moe is not None:
        keys["expert_gating_func"] = int(ExpertGatingFuncType[a.moe.scoring.upper()])
    if a.rope.scaling == "yarn" and a.rope.factor > 1:
        keys[YARN_LOG_MULTIPLIER] = (math.sqrt(a.mla.score_factor) - 1) / math.log(a.rope.factor)
    return keys


def _window_keys(a: Architecture, family: GgufFamily) -> dict[str, object]:
    windows = family.windows
    if windows is None or not (a.layer_windows or windows.default):
        return {}
    slides = [a.window(layer) > 0 for layer in range(a.num_layers)]
    keys: dict[str, object] = {"attention.sliding_window": max(a.layer_windows, default=a.max_position)}
    if windows.full_every and slides != [(layer + 1) % windows.full_every != 0 for layer in range(a.num_layers)]:
        keys["attention.sliding_window_pattern"] = slides
    if windows.theta is not None:
        keys["rope.freq_base_swa"] = next(a.rope_of(layer).theta for layer, has_window in enumerate(slides) if has_window)
    return keys


def _rope_scaling_keys(rope: Rope) -> dict[str, object]:
    if rope.scaling in ("none", "llama3"):
        return {}
    keys: dict[str, object] = {"rope.scaling.type": rope.scaling}
    if rope.scaling != "longrope":
        keys["rope.scaling.factor"] = rope.factor
    if rope.original_max_position is not None:
        keys["rope.scaling.original_context_length"] = rope.original_max_position
    if rope.scaling == "yarn":
        keys |= {"rope.scaling.yarn_beta_fast": rope.beta_fast, "rope.scaling.yarn_beta_slow": rope.beta_slow}
    if rope.scaling == "longrope":
        keys["rope.scaling.attn_factor"] = rope.attention_factor or 1.0
    return keys


def rope_tensors(a: Architecture) -> dict[str, NDArray[np.float32]]:
    """What frequencies are divided by, for the scalings that GGUF keeps as tensors."""
    if a.rope.scaling == "llama3":
        unscaled = a.rope.model_copy(update={"scaling": "none"})
        return {ROPE_FACTORS: inverse_frequencies(unscaled, a.head_dim) / inverse_frequencies(a.rope, a.head_dim)}
    if a.layers_differ:
        return {ROPE_FACTORS: full_attention_factors(a)}
    if a.rope.scaling == "longrope":
        factors = {"long_factor": a.rope.long_factors, "short_factor": a.rope.short_factors}
        return {tensor: np.asarray(factors[key], np.float32) for key, tensor in LONGROPE_FACTORS.items()}
    return {}


@dataclass(frozen=True)
class _Written:
    """What was or will be written, as a reader meets it."""

    metadata: Mapping[str, Any]
    tensors: Collection[str]
    floats: Mapping[str, NDArray[np.float32]]
    path: str = "the export"

    def read(self, name: str) -> NDArray[np.float32]:
        return self.floats[name]


def check_read_back(
    a: Architecture, metadata: Mapping[str, object], tensors: Collection[str], floats: Mapping[str, NDArray[np.float32]]
) -> None:
    """ExportError where the importer, which reads as llama.cpp does, would find another architecture than `a`.

    Frequencies of llama3 are tensors, exact for any of its parameters, of which the importer knows the published ones alone.
    """
    scaled = a.rope.scaling == "llama3"
    if GGUF_FAMILIES[a.family].rounds_yarn:
        a = a.model_copy(update={"rope": a.rope.model_copy(update={"truncate": True})})
    names = [name for name in tensors if not (scaled and name == ROPE_FACTORS)]
    try:
        found = architecture(hf_config(_Written(metadata, names, floats)))
    except UnsupportedModel as error:
        raise ExportError(f"GGUF cannot express this {a.family} model, whose readers would say: {error}") from None
    for field in Architecture.model_fields:
        if field == "family" or (field == "rope" and scaled):
            continue
        mine, theirs = (model.model_dump()[field] for model in (a, found))
        if not _alike(mine, theirs):
            raise ExportError(
                f"GGUF cannot express {field} = {mine} of a {a.family} model, for which its readers take {theirs}; "
                f"{'serve the bundle itself' if a.moe or a.mla else 'export it as onnx'}"
            )


def _alike(one: object, other: object) -> bool:
    """Whether both are the same but for numbers that were rounded to fp32, which metadata has, and squared."""
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=4 * _FP32_UNIT)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_alike(value, other[key]) for key, value in one.items())
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(_alike, one, other))
    return one == other
