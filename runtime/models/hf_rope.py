"""A config's rotary embedding, in the form of transformers 5 (`rope_parameters`) and before (`rope_scaling`)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt

from artifacts.layer_parts import Rope
from runtime.models.unsupported import UnsupportedModel

Scaling = Literal["none", "linear", "llama3", "yarn", "longrope", "proportional"]

_SCALINGS: dict[str, Scaling] = {
    "default": "none",
    "none": "none",
    "linear": "linear",
    "llama3": "llama3",
    "yarn": "yarn",
    "longrope": "longrope",
    "proportional": "proportional",
}
#: the keys that each scaling cannot do without
_REQUIRED: dict[Scaling, tuple[str, ...]] = {
    "none": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor",),
    "longrope": ("short_factor", "long_factor"),
    "proportional": (),
}


class _RopeParameters(BaseModel):
    """The keys of transformers' RopeParameters that the supported scalings read."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    rope_theta: PositiveFloat
    original_max_position_embeddings: PositiveInt
    partial_rotary_factor: float
    factor: PositiveFloat | None = None
    low_freq_factor: PositiveFloat = 1.0
    high_freq_factor: PositiveFloat = 4.0
    beta_fast: PositiveFloat = 32.0
    beta_slow: PositiveFloat = 1.0
    attention_factor: PositiveFloat | None = None
    mscale: float = 0.0
    mscale_all_dim: float = 0.0
    truncate: bool = True
    short_factor: tuple[PositiveFloat, ...] = ()
    long_factor: tuple[PositiveFloat, ...] = ()


def read_rope(parameters: Mapping[str, object], head_dim: int, max_position: int) -> Rope:
    """The rotary embedding of a config, from its rope parameters as transformers 5 standardizes them.

    `head_dim` and `max_position` are the config's own.

    Raises UnsupportedModel for a scaling that the runtime does not do and for a key that the scaling lacks.
    """
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    scaling = _SCALINGS.get(kind) if isinstance(kind, str) else None
    if scaling is None:
        raise UnsupportedModel(f"rope_type must be one of {', '.join(_SCALINGS)}, got {kind!r}")
    if any(isinstance(value, dict) for value in parameters.values()):
        raise UnsupportedModel("rope_parameters must be the same for all layers, got one set per layer type")
    missing = [key for key in _REQUIRED[scaling] if key not in parameters]
    if missing:
        raise UnsupportedModel(f"rope_type {kind!r} needs {', '.join(missing)}; the config gives none")

    given = _RopeParameters.model_validate(parameters)
    fields: dict[str, Any] = {"theta": given.rope_theta, "scaling": scaling}
    if given.partial_rotary_factor != 1.0:
        fields["rotary_dim"] = int(head_dim * given.partial_rotary_factor)
        if scaling == "proportional":
            fields["rotary_dim"] = 2 * int(given.partial_rotary_factor * head_dim // 2)
    if scaling != "none" and scaling != "longrope" and given.factor is not None:
        fields["factor"] = given.factor
    if scaling in ("llama3", "yarn", "longrope"):
        fields["original_max_position"] = given.original_max_position_embeddings
    if scaling == "llama3":
        fields |= {"low_freq_factor": given.low_freq_factor, "high_freq_factor": given.high_freq_factor}
    if scaling == "yarn":
        fields |= {"beta_fast": given.beta_fast, "beta_slow": given.beta_slow, "truncate": given.truncate}
        fields["attention_factor"] = _yarn_attention_factor(given)
    if scaling == "longrope":
        fields |= {"short_factors": given.short_factor, "long_factors": given.long_factor}
        fields["attention_factor"] = _longrope_attention_factor(given, max_position)
    return Rope(**fields)


def _yarn_attention_factor(given: _RopeParameters) -> float | None:
    """The stated factor, or the ratio that DeepSeek's pair of mscale keys implies, or None for yarn's own."""
    if given.attention_factor is not None or not (given.mscale and given.mscale_all_dim):
        return given.attention_factor
    log_factor = math.log(max(given.factor or 1.0, 1.0))
    return (0.1 * given.mscale * log_factor + 1.0) / (0.1 * given.mscale_all_dim * log_factor + 1.0)


def _longrope_attention_factor(given: _RopeParameters, max_position: int) -> float:
    """The stated factor, or that of Ding et al. 2024 for the ratio of the two lengths."""
    if given.attention_factor is not None:
        return given.attention_factor
    factor = given.factor or max_position / given.original_max_position_embeddings
    return 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(given.original_max_position_embeddings))


def score_factor(parameters: Mapping[str, object]) -> float:
    """What DeepSeek multiplies attention scores by under yarn, beside head_dim^-0.5: the square of its mscale_all_dim's."""
    scales = parameters.get("rope_type", parameters.get("type", "default")) == "yarn"
    given = _RopeParameters.model_validate(parameters)
    if not (scales and given.mscale_all_dim):
        return 1.0
    return (0.1 * given.mscale_all_dim * math.log(max(given.factor or 1.0, 1.0)) + 1.0) ** 2
