"""The Hugging Face config that a GGUF file's metadata amounts to."""

from __future__ import annotations

from typing import Any

import numpy as np

from artifacts.architecture import Rope
from optimizer.importers.errors import DamagedFile
from optimizer.importers.gguf_file import GgufFile
from runtime.models import UnknownArchitecture, UnsupportedModel, refuse_unserved_gguf
from runtime.rope import inverse_frequencies

#: GGUF architectures whose decoder the runtime's families cover; Mistral is converted to `llama` too.
GGUF_ARCHITECTURES = ("llama", "qwen2", "qwen3")
#: The tensor by whose elements llama3's scaling divides the frequencies; GGUF keeps no other trace of it.
ROPE_FACTORS = "rope_freqs.weight"

_REQUIRED = (
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.layer_norm_rms_epsilon",
)
_ROPE_SCALING = {
    "type": "rope_type",
    "factor": "factor",
    "original_context_length": "original_max_position_embeddings",
    "yarn_beta_fast": "beta_fast",
    "yarn_beta_slow": "beta_slow",
}
#: values of keys that scale nothing
_WITHOUT_EFFECT = {"factor": 0.0, "attn_factor": 1.0, "rope.scale_linear": 1.0}


def hf_config(file: GgufFile) -> dict[str, object]:
    """`file`'s metadata as a config.json of transformers 5, for `runtime.models.architecture`.

    Raises UnservedArchitecture, UnknownArchitecture, UnsupportedModel, and DamagedFile for a missing key.
    """
    name = file.metadata.get("general.architecture")
    if name not in GGUF_ARCHITECTURES:
        refuse_unserved_gguf(str(name))
        raise UnknownArchitecture(
            f"general.architecture must be one of {', '.join(GGUF_ARCHITECTURES)}; {file.path} says {name!r}"
        )
    keys = {key.removeprefix(f"{name}."): value for key, value in file.metadata.items() if key.startswith(f"{name}.")}
    missing = [f"{name}.{key}" for key in _REQUIRED if key not in keys]
    if missing:
        raise DamagedFile(f"{file.path} lacks the metadata {', '.join(missing)}")

    window = keys.get("attention.sliding_window") or None
    if window is not None and window >= keys["context_length"]:
        window = None  # no token is ever outside
    if window and name != "llama":
        raise UnsupportedModel(f"{file.path} has a sliding window, but does not say in which layers")
    if keys.get("expert_count"):
        raise UnsupportedModel(f"{file.path} is a mixture of experts; the decoder's layers are dense")
    head_dim = keys.get("attention.key_length") or keys["embedding_length"] // keys["attention.head_count"]
    if keys.get("attention.value_length", head_dim) != head_dim:
        raise UnsupportedModel(f"{file.path} has keys and values of different sizes per head")
    return {
        "model_type": "mistral" if window else name,
        "vocab_size": keys.get("vocab_size") or len(file.metadata.get("tokenizer.ggml.tokens", ())),
        "hidden_size": keys["embedding_length"],
        "intermediate_size": keys["feed_forward_length"],
        "num_hidden_layers": keys["block_count"],
        "num_attention_heads": keys["attention.head_count"],
        "num_key_value_heads": keys.get("attention.head_count_kv"),
        "head_dim": head_dim,
        "max_position_embeddings": keys["context_length"],
        "rms_norm_eps": _decimal(keys["attention.layer_norm_rms_epsilon"]),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "attention_bias": "blk.0.attn_q.bias" in file.tensors,
        "sliding_window": window,
        "rope_parameters": _rope_parameters(file, keys, head_dim),
    }


def _rope_parameters(file: GgufFile, keys: dict[str, Any], head_dim: int) -> dict[str, object]:
    theta = _decimal(keys.get("rope.freq_base", 10000.0))
    parameters: dict[str, object] = {
        "rope_theta": theta,
        "partial_rotary_factor": keys.get("rope.dimension_count", head_dim) / head_dim,
    }
    for key, value in keys.items():
        scaling = key.removeprefix("rope.scaling.")
        if key.startswith("rope.sc") and value == _WITHOUT_EFFECT.get(scaling):
            continue
        if scaling in _ROPE_SCALING:
            parameters[_ROPE_SCALING[scaling]] = _decimal(value) if isinstance(value, float) else value
        elif key.startswith("rope.sc") and scaling != "finetuned":
            raise UnsupportedModel(f"{file.path} has {key} = {value}, which cannot be imported")
    if ROPE_FACTORS in file.tensors:
        parameters |= _llama3_scaling(file, theta, head_dim)
    return parameters


def _llama3_scaling(file: GgufFile, theta: float, head_dim: int) -> dict[str, object]:
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


def _decimal(value: float) -> float:
    """The shortest decimal of a number that was stored as fp32: 9.999999747378752e-06 was 1e-05."""
    return float(str(np.float32(value)))
