"""A config's rotary embedding, in the form of transformers 5 (`rope_parameters`) and before (`rope_scaling`)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt

from artifacts.architecture import Rope
from runtime.models.unsupported import UnsupportedModel

Scaling = Literal["none", "linear", "llama3", "yarn"]

_SCALINGS: dict[str, Scaling] = {
    "default": "none",
    "none": "none",
    "linear": "linear",
    "llama3": "llama3",
    "yarn": "yarn",
}
#: the keys that each scaling cannot do without
_REQUIRED: dict[Scaling, tuple[str, ...]] = {
    "none": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor",),
}


class _RopeParameters(BaseModel):
    """The keys of transformers' RopeParameters that the supported scalings read."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    rope_theta: PositiveFloat
    original_max_position_embeddings: PositiveInt
    partial_rotary_factor: float
    factor: PositiveFloat = 1.0
    low_freq_factor: PositiveFloat = 1.0
    high_freq_factor: PositiveFloat = 4.0
    beta_fast: PositiveFloat = 32.0
    beta_slow: PositiveFloat = 1.0
    attention_factor: PositiveFloat | None = None
    mscale: float = 0.0
    mscale_all_dim: float = 0.0
    truncate: bool = True


def read_rope(parameters: Mapping[str, object]) -> Rope:
    """The rotary embedding of a config, from its rope parameters as transformers 5 standardizes them.

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
    if given.partial_rotary_factor != 1.0:
        raise UnsupportedModel(f"partial_rotary_factor must be 1, got {given.partial_rotary_factor}")
    if not given.truncate:
        raise UnsupportedModel("yarn must have truncate: true, got false")
    if scaling == "none":
        return Rope(theta=given.rope_theta)
    if scaling == "linear":
        return Rope(theta=given.rope_theta, scaling=scaling, factor=given.factor)
    if scaling == "llama3":
        return Rope(
            theta=given.rope_theta,
            scaling=scaling,
            factor=given.factor,
            original_max_position=given.original_max_position_embeddings,
            low_freq_factor=given.low_freq_factor,
            high_freq_factor=given.high_freq_factor,
        )
    return Rope(
        theta=given.rope_theta,
        scaling=scaling,
        factor=given.factor,
        original_max_position=given.original_max_position_embeddings,
        beta_fast=given.beta_fast,
        beta_slow=given.beta_slow,
        attention_factor=_yarn_attention_factor(given),
    )


def _yarn_attention_factor(given: _RopeParameters) -> float | None:
    """The stated factor, or the ratio that DeepSeek's pair of mscale keys implies, or None for yarn's own."""
    if given.attention_factor is not None or not (given.mscale and given.mscale_all_dim):
        return given.attention_factor
    log_factor = math.log(max(given.factor, 1.0))
    return (0.1 * given.mscale * log_factor + 1.0) / (0.1 * given.mscale_all_dim * log_factor + 1.0)


def score_factor(parameters: Mapping[str, object]) -> float:
    """What DeepSeek multiplies attention scores by under yarn, beside head_dim^-0.5: the square of its mscale_all_dim's."""
    scales = parameters.get("rope_type", parameters.get("type", "default")) == "yarn"
    given = _RopeParameters.model_validate(parameters)
    if not (scales and given.mscale_all_dim):
        return 1.0
    return (0.1 * given.mscale_all_dim * math.log(max(given.factor, 1.0)) + 1.0) ** 2
