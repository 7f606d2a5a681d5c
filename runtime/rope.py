"""Rotary position tables: cosine and sine of every position, with the long-context scalings of `Rope`."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from artifacts.layer_parts import Rope

Float32 = NDArray[np.float32]


def rope_tables(rope: Rope, head_dim: int, max_position: int) -> tuple[Float32, Float32]:
    """(cos, sin), each f32 [max_position, head_dim / 2]; under yarn and longrope both carry the attention factor.

    Column i rotates dimensions i and i + head_dim / 2 of a head. Those that do not turn have cos 1 and sin 0. Angles are the
    fp32 product of position and fp32 frequency, as transformers computes them: checkpoints were trained and evaluated with
    that rounding.
    """
    positions = np.arange(max_position, dtype=np.float32)
    angles = positions[:, None] * inverse_frequencies(rope, head_dim, max_position)[None, :]
    scale = np.float32(_attention_factor(rope))
    cos, sin = np.ones((max_position, head_dim // 2), np.float32), np.zeros((max_position, head_dim // 2), np.float32)
    num_turning = angles.shape[1]
    cos[:, :num_turning], sin[:, :num_turning] = np.cos(angles) * scale, np.sin(angles) * scale
    return cos, sin


def inverse_frequencies(rope: Rope, head_dim: int, max_position: int = 0) -> Float32:
    """Radians per position of each pair of dimensions that turns, f32 [rotary_dim / 2]; of a table of `max_position` rows.

    Sources: Su et al. 2021 (none), Chen et al. 2023 (linear), Llama 3.1's reference code (llama3),
    Peng et al. 2023, equations 22 and 23 (yarn), Ding et al. 2024 (longrope), transformers 5.23 (proportional).
    """
    whole, head_dim = head_dim, rope.turning(head_dim)
    period = whole if rope.scaling == "proportional" else head_dim
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(max(period, 1))
    # The power is rounded once from fp64: a fp32 power is one unit off in places that differ by library and instruction
    # set, and a late position multiplies that unit by thousands.
    powers = np.power(rope.theta, exponents.astype(np.float64)).astype(np.float32)
    frequencies: Float32 = np.float32(1.0) / powers
    if rope.scaling == "none":
        return frequencies
    if rope.scaling == "longrope":
        assert rope.original_max_position is not None  # Rope validates it
        factors = rope.long_factors if max_position > rope.original_max_position else rope.short_factors
        return np.float32(1.0) / (np.asarray(factors, np.float32) * powers)
    factor = np.float32(rope.factor)
    if rope.scaling in ("linear", "proportional"):
        return frequencies / factor
    kept = _llama3_kept(rope, frequencies) if rope.scaling == "llama3" else _yarn_kept(rope, head_dim)
    return (np.float32(1.0) - kept) * frequencies / factor + kept * frequencies


def _llama3_kept(rope: Rope, frequencies: Float32) -> Float32:
    """How much of each frequency stays unscaled: 1 above the high-frequency bound, 0 below the low one."""
    assert rope.original_max_position is not None  # Rope validates it
    # Two reciprocals and two products, not quotients: torch's rounding of a number divided by a tensor.
    one = np.float32(1.0)
    wavelengths = one / frequencies * np.float32(2 * math.pi)
    turns = one / wavelengths * np.float32(rope.original_max_position)
    ramp = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    kept: Float32 = np.clip(ramp, 0.0, 1.0)
    return kept


def _yarn_kept(rope: Rope, head_dim: int) -> Float32:
    """How much of each frequency stays unscaled: a ramp between the dimensions that turn beta_fast and beta_slow."""
    assert rope.original_max_position is not None  # Rope validates it

    def dimension(turns: float) -> float:
        span = rope.original_max_position / (turns * 2 * math.pi)  # type: ignore[operator]
        return head_dim * math.log(span) / (2 * math.log(rope.theta))

    low, high = dimension(rope.beta_fast), dimension(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    width = high - low if high != low else 0.001
    ramp = (np.arange(head_dim // 2, dtype=np.float32) - low) / width
    kept: Float32 = np.float32(1.0) - np.clip(ramp, 0.0, 1.0)
    return kept


def _attention_factor(rope: Rope) -> float:
    """Under yarn Peng et al. 2023, equation 25, unless the checkpoint states its own."""
    if rope.scaling == "longrope":
        return rope.attention_factor or 1.0
    if rope.scaling != "yarn":
        return 1.0
    if rope.attention_factor is not None:
        return rope.attention_factor
    return 0.1 * math.log(max(rope.factor, 1.0)) + 1.0
