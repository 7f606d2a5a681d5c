"""The config.json of an architecture: what `runtime.models.architecture` reads, written."""

from __future__ import annotations

from collections.abc import Mapping

from artifacts.architecture import Architecture
from artifacts.layer_parts import Rope
from optimizer.exporters.errors import ExportError
from runtime.models import architecture as read_config

_CLASSES = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}


def hf_config(architecture: Architecture, generation_config: Mapping[str, object]) -> dict[str, object]:
    """config.json of `architecture`, with its rotary embedding in the form that all versions of transformers read.

    ExportError where the family's config cannot say what the architecture is.
    """
    a = architecture
    if a.family not in _CLASSES:
        raise ExportError(f"a model can be exported of the families {', '.join(_CLASSES)}, got {a.family!r}")
    config: dict[str, object] = {
        "architectures": [f"{_CLASSES[a.family]}ForCausalLM"],
        "model_type": a.family,
        "vocab_size": a.vocab_size,
        "hidden_size": a.hidden_size,
        "intermediate_size": a.intermediate_size,
        "num_hidden_layers": a.num_layers,
        "num_attention_heads": a.num_q_heads,
        "num_key_value_heads": a.num_kv_heads,
        "head_dim": a.head_dim,
        "max_position_embeddings": a.max_position,
        "rms_norm_eps": a.rms_norm_eps,
        "hidden_act": "silu",
        "tie_word_embeddings": a.tie_embeddings,
        "attention_bias": a.output_bias,
        "rope_theta": a.rope.theta,
        "rope_scaling": _rope_scaling(a.rope),
        **_windows(a),
    }
    config |= {name: generation_config[name] for name in ("bos_token_id", "eos_token_id") if name in generation_config}
    described = read_config(config)
    if described != a:
        ours, theirs = a.model_dump(), described.model_dump()
        differing = [key for key in ours if ours[key] != theirs[key]]
        raise ExportError(f"the config of a {a.family} model cannot express that {differing[0]} is {ours[differing[0]]!r}")
    return config


def _windows(a: Architecture) -> dict[str, object]:
    window = max(a.layer_windows, default=0)
    if a.family == "mistral":
        return {"sliding_window": window or None}
    if not window:
        return {}
    kinds = ["sliding_attention" if a.window(layer) else "full_attention" for layer in range(a.num_layers)]
    first = kinds.index("sliding_attention")
    return {"use_sliding_window": True, "sliding_window": window, "max_window_layers": first, "layer_types": kinds}


def _rope_scaling(rope: Rope) -> dict[str, object] | None:
    if rope.scaling == "none":
        return None
    scaling: dict[str, object] = {"rope_type": rope.scaling, "factor": rope.factor}
    if rope.scaling == "linear":
        return scaling
    scaling["original_max_position_embeddings"] = rope.original_max_position
    if rope.scaling == "llama3":
        return scaling | {"low_freq_factor": rope.low_freq_factor, "high_freq_factor": rope.high_freq_factor}
    scaling |= {"beta_fast": rope.beta_fast, "beta_slow": rope.beta_slow} | ({} if rope.truncate else {"truncate": False})
    return scaling if rope.attention_factor is None else scaling | {"attention_factor": rope.attention_factor}
