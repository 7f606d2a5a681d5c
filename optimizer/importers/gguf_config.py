"""The Hugging Face config that a GGUF file's metadata amounts to."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from artifacts.layer_parts import Rope
from optimizer.importers.errors import DamagedFile
from optimizer.importers.gguf_families import GGUF_FAMILIES, GgufFamily, architectures, model_type
from optimizer.importers.gguf_latents import YARN_LOG_MULTIPLIER, latent_config
from optimizer.importers.gguf_layers import LAYERED_KEYS, layered_config
from runtime.models import UnknownArchitecture, UnsupportedModel, refuse_unserved_gguf
from runtime.rope import inverse_frequencies

#: The tensor by whose elements llama3's scaling divides the frequencies; GGUF keeps no other trace of it.
ROPE_FACTORS = "rope_freqs.weight"
#: By which longrope does, under their keys of config.json.
LONGROPE_FACTORS = {"long_factor": "rope_factors_long.weight", "short_factor": "rope_factors_short.weight"}

_REQUIRED = (
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.layer_norm_rms_epsilon",
)
#: of families that read them
_OF_EXPERTS = {"expert_used_count", "expert_feed_forward_length"}
_ROPE_SCALING = {
    "type": "rope_type",
    "factor": "factor",
    "original_context_length": "original_max_position_embeddings",
    "yarn_beta_fast": "beta_fast",
    "yarn_beta_slow": "beta_slow",
}
#: values of keys that scale nothing
_WITHOUT_EFFECT = {"factor": 0.0, "attn_factor": 1.0, "rope.scale_linear": 1.0}
#: keys of what a decoder here does not do, where they are not 0, and what it is
_REFUSED = {
    "nextn_predict_layers": "has layers that predict further tokens; convert it again without them",
    "rope.dimension_sections": "turns by positions of images, too; only text is read",
    "attention.temperature_scale": "scales scores by their positions",
    "deepstack_mapping": "reads images in some layers; only text is read",
}


class Header(Protocol):
    """What of a GGUF file says what its model is."""

    @property
    def path(self) -> object: ...

    @property
    def metadata(self) -> Mapping[str, Any]: ...

    @property
    def tensors(self) -> Collection[str]: ...

    def read(self, name: str) -> NDArray[np.float32]:
        """One of `tensors`."""
        ...


def family_of(file: Header) -> str:
    """The `model_type` of `file`, a key of GGUF_FAMILIES. UnservedArchitecture or UnknownArchitecture for any other."""
    name = file.metadata.get("general.architecture")
    if name not in architectures():
        refuse_unserved_gguf(str(name))
        raise UnknownArchitecture(
            f"general.architecture must be one of {', '.join(architectures())}; {file.path} says {name!r}"
        )
    found = model_type(name, _keys(file, name), has_window=bool(_window(file.metadata, name)))
    if found is None:
        has = "experts" if file.metadata.get(f"{name}.expert_count") else "no experts"
        raise UnsupportedModel(f"{file.path} is of the architecture {name} and has {has}, which no family here has")
    return found


def _keys(file: Header, name: str) -> dict[str, Any]:
    return {key.removeprefix(f"{name}."): value for key, value in file.metadata.items() if key.startswith(f"{name}.")}


def hf_config(file: Header) -> dict[str, object]:
    """`file`'s metadata as a config.json of transformers 5, for `runtime.models.architecture`.

    Raises UnservedArchitecture, UnknownArchitecture, UnsupportedModel, and DamagedFile for a missing key.
    """
    kind = family_of(file)
    family = GGUF_FAMILIES[kind]
    name = family.architecture
    keys = _keys(file, name)
    known = family.keys_of(bool(keys.get("expert_count")))
    needed = (*_REQUIRED, *sorted(_OF_EXPERTS & known.keys()), *(LAYERED_KEYS if family.layers_differ else ()))
    missing = [f"{name}.{key}" for key in needed if key not in keys]
    if missing:
        raise DamagedFile(f"{file.path} lacks the metadata {', '.join(missing)}")
    for key, why in _REFUSED.items():
        if np.any(keys.get(key) or 0):
            raise UnsupportedModel(f"{file.path} {why}")
    latents = latent_config(file.path, keys, family) if "attention.kv_lora_rank" in family.keys else {}
    head_dim = keys.get("attention.key_length") or keys["embedding_length"] // keys["attention.head_count"]
    if latents:
        head_dim = keys["rope.dimension_count"]  # of what turns
    elif keys.get("attention.value_length", head_dim) != head_dim:
        raise UnsupportedModel(f"{file.path} has keys and values of different sizes per head")
    rope = _rope_parameters(file, keys, family, head_dim)
    vocab_size = keys.get("vocab_size") or len(file.metadata.get("tokenizer.ggml.tokens", ()))
    layers: dict[str, object] = {"enable_moe_block": bool(keys.get("expert_count"))} if family.of_experts else {}
    if family.layers_differ:
        factors = file.read(ROPE_FACTORS) if ROPE_FACTORS in file.tensors else None
        layers |= layered_config(file.path, keys, file.tensors, factors, rope) | {"vocab_size_per_layer_input": vocab_size}
    return {
        "model_type": kind,
        "vocab_size": vocab_size,
        "hidden_size": keys["embedding_length"],
        "intermediate_size": keys["feed_forward_length"],
        "num_hidden_layers": keys["block_count"],
        "num_attention_heads": keys["attention.head_count"],
        "num_key_value_heads": None if layers else _of_all_layers(file, keys.get("attention.head_count_kv")),
        "layer_types": ["full_attention"] * keys["block_count"] if family.names_layers else None,
        "head_dim": head_dim,
        "max_position_embeddings": keys["context_length"],
        "rms_norm_eps": _decimal(keys["attention.layer_norm_rms_epsilon"]),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "attention_bias": any(f"blk.0.attn_{name}.bias" in file.tensors for name in ("q", "qkv")),
        "rope_parameters": rope,
        # Phi-3's, where a config says it and a default would count before that of rope_parameters
        "original_max_position_embeddings": rope.get("original_max_position_embeddings"),
        **_windows(file, keys, family),
        **_scores(keys, family, head_dim),
        **family.granted,
        **{theirs: _plain(keys[key]) for key, theirs in known.items() if key in keys},
        **latents,
        **layers,
    }


def _window(metadata: Mapping[str, Any], name: str) -> int:
    """Tokens of the window that the file states, 0 if it states none, or one that no token is ever outside of."""
    window: int = metadata.get(f"{name}.attention.sliding_window") or 0
    return 0 if window >= metadata.get(f"{name}.context_length", 0) else window


def _windows(file: Header, keys: Mapping[str, Any], family: GgufFamily) -> dict[str, object]:
    """`sliding_window` and, where a layer's type is not that of all, `layer_types` and the rope of those with a window."""
    windows = family.windows
    if windows is None or not windows.full_every:
        window = _window(file.metadata, family.architecture)
        if window and windows is None:
            raise UnsupportedModel(f"{file.path} has a sliding window, but does not say in which layers")
        return {"sliding_window": window or None}
    window, num_layers = keys.get("attention.sliding_window") or windows.default, keys["block_count"]
    pattern = keys.get("attention.sliding_window_pattern", windows.full_every)
    if isinstance(pattern, list):
        if len(pattern) != num_layers:
            raise DamagedFile(
                f"{file.path}: sliding_window_pattern must have an entry per layer, {num_layers}, got {len(pattern)}"
            )
        slides = [bool(entry) for entry in pattern]
    else:
        slides = [pattern == 0 or (layer + 1) % pattern != 0 for layer in range(num_layers)]
    config: dict[str, object] = {
        "sliding_window": window or None,
        "layer_types": ["sliding_attention" if has_window and window else "full_attention" for has_window in slides],
    }
    theta = keys.get("rope.freq_base_swa")
    if windows.theta is not None:
        config["rope_local_base_freq"] = _decimal(windows.theta if theta is None else theta)
    elif theta not in (None, keys.get("rope.freq_base", 10000.0)):
        raise UnsupportedModel(f"{file.path} turns layers with a window by a base of their own, which its family does not")
    return config


def _scores(keys: Mapping[str, Any], family: GgufFamily, head_dim: int) -> dict[str, object]:
    """What scores are divided by the root of, or multiplied by, for families that have a word for it."""
    if "attention.scale" in family.keys:
        return {family.keys["attention.scale"]: head_dim**-0.5}  # where the file is silent
    if family.wide_scores is None:
        return {}
    wide = keys["block_count"] == family.wide_scores
    return {"query_pre_attn_scalar": keys["embedding_length"] // keys["attention.head_count"] if wide else head_dim}


def _rope_parameters(file: Header, keys: Mapping[str, Any], family: GgufFamily, head_dim: int) -> dict[str, object]:
    theta = _decimal(keys.get("rope.freq_base", 10000.0))
    parameters: dict[str, object] = {
        "rope_theta": theta,
        "partial_rotary_factor": keys.get("rope.dimension_count", head_dim) / head_dim,
    }
    if is_longrope := any(tensor in file.tensors for tensor in LONGROPE_FACTORS.values()):
        parameters |= _longrope_scaling(file)
    for key, value in keys.items():
        scaling = key.removeprefix("rope.scaling.")
        if key == YARN_LOG_MULTIPLIER and "attention.kv_lora_rank" in family.keys:
            parameters["mscale"] = parameters["mscale_all_dim"] = round(10 * _decimal(value), 8)
        elif scaling == "attn_factor" and is_longrope:
            parameters["attention_factor"] = _decimal(value)
        elif key.startswith("rope.sc") and value == _WITHOUT_EFFECT.get(scaling):
            continue
        elif scaling in _ROPE_SCALING:
            parameters[_ROPE_SCALING[scaling]] = _plain(value)
        elif key.startswith("rope.sc") and scaling != "finetuned":
            raise UnsupportedModel(f"{file.path} has {key} = {value}, which cannot be imported")
        elif scaling == "finetuned" and not value and family.turns_if_finetuned:
            raise UnsupportedModel(f"{file.path} has {key} = {value}: no layer of it knows positions")
    if ROPE_FACTORS in file.tensors and not family.layers_differ:
        parameters |= _llama3_scaling(file, theta, head_dim)
    return parameters


def _longrope_scaling(file: Header) -> dict[str, object]:
    """The divisors of both lengths; the factor of cos and sin is 1 unless a key says otherwise."""
    missing = [tensor for tensor in LONGROPE_FACTORS.values() if tensor not in file.tensors]
    if missing:
        raise DamagedFile(f"{file.path} must have the factors of both lengths of longrope, but lacks {missing[0]}")
    factors = {key: [_decimal(factor) for factor in file.read(tensor)] for key, tensor in LONGROPE_FACTORS.items()}
    return {"rope_type": "longrope", "attention_factor": 1.0, **factors}


def _llama3_scaling(file: Header, theta: float, head_dim: int) -> dict[str, object]:
    """The llama3 parameters that give the file's factors; all published models share the three that are fixed here."""
    stored = file.read(ROPE_FACTORS)
    scaling: dict[str, Any] = {"factor": _decimal(stored.max()), "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    rope = Rope(theta=theta, scaling="llama3", original_max_position=8192, **scaling)
    implied = inverse_frequencies(Rope(theta=theta), head_dim) / inverse_frequencies(rope, head_dim)
    if stored.shape != implied.shape or not np.allclose(stored, implied, rtol=1e-4):
        raise UnsupportedModel(
            f"{file.path} scales its rotary frequencies ({ROPE_FACTORS}) in a way that is not llama3's "
            "(low_freq_factor 1, high_freq_factor 4, original length 8192)"
        )
    return {"rope_type": "llama3", "original_max_position_embeddings": 8192, **scaling}


def _of_all_layers(file: Header, value: Any) -> Any:
    """Of a number of key heads that some converters write for each layer."""
    if not isinstance(value, list):
        return value
    if len(set(value)) != 1:
        raise UnsupportedModel(f"{file.path} must have as many key heads in all layers, got {sorted(set(value))}")
    return value[0]


def _plain(value: object) -> object:
    return _decimal(value) if isinstance(value, float) else value


def _decimal(value: float) -> float:
    """The shortest decimal of a number that was stored as fp32: 9.999999747378752e-06 was 1e-05."""
    return float(str(np.float32(value)))
