"""The config of a graph: config.json beside it, or genai_config.json and what the graph itself says."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto

from optimizer.importers.errors import DamagedFile, MissingFile, UnsupportedGraph
from optimizer.importers.graph_path import CONFIG, GENAI
from optimizer.importers.json_file import read_json
from optimizer.importers.onnx_decoder.graph import OnnxFile, attributes
from optimizer.importers.onnx_decoder.roles import Decoder

#: families whose config is no more than sizes, an eps and a base of the rotation, as onnxruntime-genai names them
_PLAIN = ("llama", "mistral", "qwen2", "qwen3")
#: how far off theta may be by the type of the tables
_PRECISION: dict[int, float] = {TensorProto.FLOAT: 1e-5, TensorProto.FLOAT16: 1e-3, TensorProto.BFLOAT16: 5e-3}
_FIX = "put the model's config.json beside it"


def read_config(folder: Path) -> tuple[dict[str, Any], bool]:
    """The config that lies in `folder`, and whether it is onnxruntime-genai's. Raises MissingFile, DamagedFile."""
    if (folder / CONFIG).exists():
        return read_json(folder / CONFIG), False
    if not (folder / GENAI).exists():
        raise MissingFile(
            f"{folder} has neither {CONFIG} nor {GENAI}; a graph alone does not say of which family it is: {_FIX}"
        )
    return read_json(folder / GENAI), True


def completed(stated: Mapping[str, Any], file: OnnxFile, decoder: Decoder) -> dict[str, Any]:
    """genai_config.json as a config.json, with the eps, the rotation and the sizes that the graph has.

    UnsupportedGraph where both together do not say enough, DamagedFile where a key is not there.
    """
    try:
        model = stated["model"]
        own, family = model["decoder"], model["type"]
        config = {
            "model_type": family,
            "vocab_size": model["vocab_size"],
            "hidden_size": own["hidden_size"],
            "num_hidden_layers": own["num_hidden_layers"],
            "num_attention_heads": own["num_attention_heads"],
            "num_key_value_heads": own["num_key_value_heads"],
            "head_dim": own["head_size"],
            "max_position_embeddings": model["context_length"],
        }
    except (KeyError, TypeError) as error:
        raise DamagedFile(f"{GENAI} of {file.path} lacks {error} of its model; {_FIX}") from None
    if family not in _PLAIN:
        raise UnsupportedGraph(f"{GENAI} says too little of a model of type {family!r} (enough of {', '.join(_PLAIN)}); {_FIX}")
    groups = decoder.groups
    attention = _nodes(file, "GroupQueryAttention")
    windows = {int(attributes(node).get("local_window_size", -1)) for node in attention}
    if len(windows) != 1:
        raise UnsupportedGraph(f"{file.path}: attention of all layers must be GroupQueryAttention with one window; {_FIX}")
    (window,) = windows
    if window > 0 and family != "mistral":
        raise UnsupportedGraph(f"{GENAI} does not say which layers of a {family} model have windows; {_FIX}")
    tied = groups["head"][0].matrix.data == decoder.embed.matrix.data
    return config | {
        "bos_token_id": model.get("bos_token_id"),
        "eos_token_id": model.get("eos_token_id"),
        "intermediate_size": groups["layers.0.down"][0].matrix.shape[1],
        "rms_norm_eps": _eps(file),
        "rope_theta": _theta(file, attention[0], own["head_size"]),
        "tie_word_embeddings": tied,
        "attention_bias": groups["layers.0.o"][0].bias is not None,
        "sliding_window": window if window > 0 else None,
    }


def _nodes(file: OnnxFile, kind: str) -> list[onnx.NodeProto]:
    return [node for node in file.model.graph.node if node.op_type == kind]


def _eps(file: OnnxFile) -> float:
    norms = _nodes(file, "SimplifiedLayerNormalization") + _nodes(file, "SkipSimplifiedLayerNormalization")
    found = {float(attributes(node).get("epsilon", 1e-5)) for node in norms}
    if len(found) != 1:
        raise UnsupportedGraph(f"{file.path}: norms must be SimplifiedLayerNormalization with one epsilon; {_FIX}")
    return float(f"{found.pop():.6g}")  # an attribute is fp32


def _theta(file: OnnxFile, attention: onnx.NodeProto, head_dim: int) -> float:
    """The base of the tables: column i turns by theta^(-2 i / head_dim) radians a position.

    The roundest number that is within what their precision leaves. They are compared with what follows from it later on.
    """
    names = attention.input[7:9]
    if len(names) < 2 or not all(name in file.initializers for name in names) or head_dim < 4:
        raise UnsupportedGraph(f"{file.path}: GroupQueryAttention must read stored tables of cosines and sines; {_FIX}")
    column = max(1, head_dim // 16)  # it turns often, and still depends on theta
    cosines, sines = (file.floats(name)[:, column].astype(float) for name in names)
    frequency, position = math.atan2(sines[1], cosines[1]), 2
    while position < len(sines):
        beyond = math.atan2(sines[position], cosines[position]) - frequency * position
        frequency += math.remainder(beyond, 2 * math.pi) / position
        position *= 2
    if frequency <= 0:
        raise UnsupportedGraph(f"{file.path}: the tables {', '.join(names)} do not turn; {_FIX}")
    theta = frequency ** (-head_dim / (2 * column))
    rounded = (float(f"{theta:.{digits}g}") for digits in range(1, 8))
    return next((number for number in rounded if abs(number / theta - 1) < _PRECISION[file.kind(names[0])]), theta)
