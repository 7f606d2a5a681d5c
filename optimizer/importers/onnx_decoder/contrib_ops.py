"""onnxruntime's own operators, in numpy, as its documentation has them: what the graphs of its model builder are made of."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx.reference.op_run import OpRun

from optimizer.importers.errors import UnsupportedGraph

Values = NDArray[np.float32]


class SimplifiedLayerNormalization(OpRun):
    op_domain = ""

    def _run(self, x: Values, gain: Values, **stated: Any) -> tuple[Values]:
        return (_normed(x, gain, stated.get("epsilon", 1e-5)),)


class SkipSimplifiedLayerNormalization(OpRun):
    op_domain = "com.microsoft"

    def _run(self, x: Values, skip: Values, gain: Values, bias: Values | None = None, **stated: Any) -> tuple[Any, ...]:
        total = x + skip if bias is None else x + skip + bias
        unused = total[:0]
        outputs = (_normed(total, gain, stated.get("epsilon", 1e-5)), unused, unused, total)
        return outputs[: len(self.onnx_node.output)]


class RotaryEmbedding(OpRun):
    op_domain = "com.microsoft"

    def _run(self, x: Values, positions: NDArray[np.int64], cos: Values, sin: Values, **stated: Any) -> tuple[Values]:
        turning = stated.get("rotary_embedding_dim", 0) or 2 * cos.shape[1]
        heads = stated.get("num_heads", 0)
        if x.ndim == 3:
            size = x.shape[2] // heads if heads else turning
            rows = _heads(x, x.shape[2] // size)
        else:
            rows = x
        places = positions.reshape(-1)
        if places.size == 1:
            places = places[0] + np.arange(rows.shape[2])
        turned = _turned(rows, places, cos, sin, bool(stated.get("interleaved", 0)), turning)
        return (turned if x.ndim == 4 else _joined(turned),)


class GroupQueryAttention(OpRun):
    op_domain = "com.microsoft"

    def _run(self, query: Values, *rest: Any, **stated: Any) -> tuple[Values, Values, Values]:
        key, value, past_key, past_value, _, total, cos, sin = rest[:8]
        others = rest[8:]
        if any(other is not None for other in others[1:]) or stated.get("smooth_softmax", 0) > 0:
            raise UnsupportedGraph(f"GroupQueryAttention node {self.onnx_node.name!r} has a bias, a sink or a smooth softmax")
        num_heads, num_kv_heads = stated.get("num_heads", 0), stated.get("kv_num_heads", 0)
        if key is None:
            size = query.shape[2] // (num_heads + 2 * num_kv_heads)
            query, key, value = np.split(query, [num_heads * size, (num_heads + num_kv_heads) * size], axis=2)
        q, k, v = _heads(query, num_heads), _heads(key, num_kv_heads), _heads(value, num_kv_heads)
        num_past = int(np.asarray(total).reshape(-1)[0]) - q.shape[2]
        if stated.get("do_rotary", 0):
            places, interleaved = num_past + np.arange(q.shape[2]), bool(stated.get("rotary_interleaved", 0))
            q, k = (_turned(rows, places, cos, sin, interleaved, 2 * cos.shape[1]) for rows in (q, k))
        k, v = np.concatenate((past_key[:, :, :num_past], k), 2), np.concatenate((past_value[:, :, :num_past], v), 2)
        scale = stated.get("scale", 0.0) or q.shape[3] ** -0.5
        age = num_past + np.arange(q.shape[2])[:, None] - np.arange(k.shape[2])[None, :]
        window = stated.get("local_window_size", -1)
        seen = (age >= 0) & (age < window) if window > 0 else age >= 0
        wide_k, wide_v = (np.repeat(rows, num_heads // num_kv_heads, axis=1) for rows in (k, v))
        scores = (q @ wide_k.swapaxes(2, 3)) * np.float32(scale)
        if softcap := stated.get("softcap", 0.0):
            scores = np.float32(softcap) * np.tanh(scores / np.float32(softcap))
        scores = np.where(seen, scores, np.float32(-np.inf))
        weights = np.exp(scores - scores.max(axis=3, keepdims=True))
        weights /= weights.sum(axis=3, keepdims=True)
        return _joined(weights @ wide_v), k, v


CONTRIB_OPS: list[type[OpRun]] = [
    SimplifiedLayerNormalization,
    SkipSimplifiedLayerNormalization,
    RotaryEmbedding,
    GroupQueryAttention,
]


def _normed(x: Values, gain: Values, epsilon: float) -> Values:
    normed: Values = x / np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + np.float32(epsilon)) * gain
    return normed


def _heads(x: Values, count: int) -> Values:
    """[1, T, heads D] -> [1, heads, T, D]."""
    return x.reshape(x.shape[0], x.shape[1], count, -1).swapaxes(1, 2)


def _joined(x: Values) -> Values:
    return x.swapaxes(1, 2).reshape(x.shape[0], x.shape[2], -1)


def _turned(x: Values, places: NDArray[Any], cos: Values, sin: Values, interleaved: bool, turning: int) -> Values:
    """x [1, heads, T, D], the first `turning` dimensions of a head turned by the rows `places` of the tables."""
    part, still = x[..., :turning], x[..., turning:]
    first, second = (part[..., 0::2], part[..., 1::2]) if interleaved else np.split(part, 2, axis=-1)
    c, s = cos[places], sin[places]
    turned = first * c - second * s, second * c + first * s
    joined = np.stack(turned, axis=-1).reshape(part.shape) if interleaved else np.concatenate(turned, axis=-1)
    return np.concatenate((joined, still), axis=-1)
