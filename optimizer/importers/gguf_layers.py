"""Layers of two kinds (Gemma 4's) in GGUF files, as llama.cpp's gemma4 reads them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimizer.importers.errors import DamagedFile
from runtime.models import UnsupportedModel

#: What llama.cpp cannot do without. Those that end in _swa are of layers with a window.
LAYERED_KEYS = (
    "attention.key_length",
    "attention.key_length_swa",
    "attention.value_length_swa",
    "attention.sliding_window",
    "attention.sliding_window_pattern",
    "embedding_length_per_layer_input",
)
#: Frequencies that are divided by this or more do not turn; the converter writes 1e30.
_STILL = 1e20
_FULL, _SLIDING = "full_attention", "sliding_attention"


def layered_config(
    path: object,
    keys: Mapping[str, Any],
    tensors: Collection[str],
    factors: NDArray[np.float32] | None,
    rope: Mapping[str, Any],
) -> dict[str, object]:
    """What config.json says of layers. `factors` divide the frequencies of full attention; `rope` is what `keys` say of all.

    Raises DamagedFile, and UnsupportedModel for what llama.cpp computes otherwise than the family.
    """
    slides = [bool(entry) for entry in _by_layer(path, keys, "attention.sliding_window_pattern")]
    heads = _by_layer(path, keys, "attention.head_count_kv", keys["attention.head_count"])
    sizes = {True: keys["attention.key_length_swa"], False: keys["attention.key_length"]}
    if not all(sizes.values()):
        raise DamagedFile(f"{path}: attention.key_length and key_length_swa must be positive, got {list(sizes.values())}")
    if keys["attention.value_length_swa"] != sizes[True]:
        raise UnsupportedModel(f"{path} has keys and values of different sizes per head")
    if not any(slides) or slides[-1]:
        raise UnsupportedModel(f"{path} must have layers with a sliding window, and the last without one, got {slides}")
    shared = keys.get("attention.shared_kv_layers", 0)
    if not isinstance(shared, int) or not 0 <= shared < len(slides):
        raise DamagedFile(f"{path}: shared_kv_layers must be below the number of layers, {len(slides)}, got {shared!r}")
    first = len(slides) - shared
    _check_caches(path, slides, first)
    return {
        "layer_types": [_SLIDING if has_window else _FULL for has_window in slides],
        "sliding_window": keys["attention.sliding_window"],
        "head_dim": sizes[True],
        "num_key_value_heads": heads[slides.index(True)],
        "per_layer_config": {
            layer: {"head_dim": sizes[has_window], "num_key_value_heads": heads[layer]}
            for layer, has_window in enumerate(slides)
        },
        "attention_k_eq_v": _values_are_keys(path, slides[:first], tensors),
        **_widths(path, _by_layer(path, keys, "feed_forward_length"), first),
        "rope_parameters": _ropes(path, keys, factors, rope),
    }


def _by_layer(path: object, keys: Mapping[str, Any], key: str, default: object = None) -> list[Any]:
    """What a key says of each layer: one thing of all, or an array."""
    value, num_layers = keys.get(key, default), keys["block_count"]
    if not isinstance(value, list):
        return [value] * num_layers
    if len(value) != num_layers:
        raise DamagedFile(f"{path}: {key} must have an entry per layer, {num_layers}, got {len(value)}")
    return value


def _check_caches(path: object, slides: list[bool], first: int) -> None:
    """From `first` on, llama.cpp reads the cache of the last layer before it, and of the last but one where windows are."""
    for layer in range(first, len(slides)):
        read = first - 1 - slides[layer]
        owner = max((i for i in range(first) if slides[i] == slides[layer]), default=None)
        if owner != read:
            raise UnsupportedModel(
                f"{path}: layer {layer} must attend to the cache of layer {read}, as llama.cpp has it, but the last of its "
                f"kind with a cache is {owner}"
            )


def _values_are_keys(path: object, slides: list[bool], tensors: Collection[str]) -> bool:
    """Of layers without a window, that have a cache: whether none projects values."""
    without = [i for i in range(len(slides)) if not {f"blk.{i}.attn_v.weight", f"blk.{i}.attn_qkv.weight"} & set(tensors)]
    full = [i for i, has_window in enumerate(slides) if not has_window]
    if without and without != full:
        raise UnsupportedModel(
            f"{path} must have attn_v in all layers, or in those with a window alone; it has none in layers "
            f"{', '.join(map(str, without))}, and layers without a window are {', '.join(map(str, full))}"
        )
    return bool(without)


def _widths(path: object, widths: list[int], first: int) -> dict[str, object]:
    """Layers without a cache of their own may have twice as many neurons."""
    twice = widths[-1] != widths[0]
    if widths != [widths[0]] * first + [widths[0] * (1 + twice)] * (len(widths) - first):
        raise UnsupportedModel(
            f"{path}: feed_forward_length must be the same in all layers, or twice as much in those that share caches (from "
            f"{first} on), got {widths}"
        )
    return {"intermediate_size": widths[0], "use_double_wide_mlp": twice}


def _ropes(
    path: object, keys: Mapping[str, Any], factors: NDArray[np.float32] | None, rope: Mapping[str, Any]
) -> dict[str, object]:
    """Heads of full attention turn in their first pairs, where `factors` are 1; those of a window as a whole."""
    if scaling := sorted(rope.keys() - {"rope_theta", "partial_rotary_factor", "original_max_position_embeddings"}):
        raise UnsupportedModel(f"{path} scales positions ({', '.join(scaling)}), which its family does not")
    if factors is None:
        raise DamagedFile(f"{path} lacks rope_freqs.weight, which says how much of a head turns in full attention")
    head_dim, of_window = keys["attention.key_length"], keys["attention.key_length_swa"]
    turning = keys.get("rope.dimension_count", head_dim)
    pairs = int((factors == 1).sum())
    if (
        turning != head_dim
        or factors.shape != (head_dim // 2,)
        or (factors[:pairs] != 1).any()
        or (factors[pairs:] < _STILL).any()
    ):
        raise UnsupportedModel(
            f"{path}: rope_freqs.weight must be {head_dim // 2} factors, of which the first are 1 and the others 1e30, and "
            f"rope.dimension_count {head_dim}, got {len(factors)} factors and {turning}"
        )
    return {
        # half a pair more than turns, which is rounded down
        _FULL: {
            "rope_type": "proportional",
            "rope_theta": rope["rope_theta"],
            "partial_rotary_factor": min(1.0, (2 * pairs + 1) / head_dim),
        },
        _SLIDING: {
            "rope_theta": float(str(np.float32(keys.get("rope.freq_base_swa", 10000.0)))),
            "partial_rotary_factor": keys.get("rope.dimension_count_swa", turning) / of_window,
        },
    }
