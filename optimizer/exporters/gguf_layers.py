"""Layers of two kinds (Gemma 4's) as the metadata of a GGUF file, as llama.cpp's converter writes them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from artifacts.architecture import Architecture

_STILL = 1e30


def layer_keys(a: Architecture) -> dict[str, object]:
    """Of a model whose layers differ, and some of which have a window; keys that end in _swa are of those."""
    slides = [a.window(layer) > 0 for layer in range(a.num_layers)]
    full, sliding = _full_layer(a), slides.index(True)
    shapes = [a.layer_shape(layer) for layer in range(a.num_layers)]
    return {
        "feed_forward_length": _shortest([shape.intermediate_size for shape in shapes]),
        "attention.head_count_kv": _shortest([shape.num_kv_heads for shape in shapes]),
        "attention.key_length": shapes[full].head_dim,
        "attention.value_length": shapes[full].head_dim,
        "attention.key_length_swa": shapes[sliding].head_dim,
        "attention.value_length_swa": shapes[sliding].head_dim,
        "attention.sliding_window_pattern": slides,
        "attention.shared_kv_layers": sum(not a.owns_cache(layer) for layer in range(a.num_layers)),
        "embedding_length_per_layer_input": a.per_layer_size,
        "final_logit_softcapping": a.logit_softcap,  # said where there is none, too: readers have a default
        "rope.dimension_count": shapes[full].head_dim,
        "rope.dimension_count_swa": a.rope_of(sliding).turning(shapes[sliding].head_dim),
        "rope.freq_base": a.rope_of(full).theta,
        "rope.freq_base_swa": a.rope_of(sliding).theta,
    }


def full_attention_factors(a: Architecture) -> NDArray[np.float32]:
    """What frequencies of layers without a window are divided by: 1, and so much that the others do not turn."""
    layer = _full_layer(a)
    head_dim = a.layer_shape(layer).head_dim
    turning = a.rope_of(layer).turning(head_dim) // 2
    return np.repeat(np.array([1, _STILL], np.float32), [turning, head_dim // 2 - turning])


def _full_layer(a: Architecture) -> int:
    return next((layer for layer in range(a.num_layers) if not a.window(layer)), a.num_layers - 1)


def _shortest(sizes: Sequence[int]) -> object:
    """One number where all layers have the same."""
    return list(sizes) if len(set(sizes)) > 1 else sizes[0]
