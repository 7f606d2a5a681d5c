"""A GGUF file, as llama.cpp's converter would write it, of the bundle's own codes and scales."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFWriter
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize

from artifacts.architecture import Architecture
from kernels.spec import Array
from optimizer.exporters.errors import ExportError
from optimizer.exporters.gguf_blocks import block_kind, blocks, reason
from optimizer.exporters.gguf_vocabulary import unsaid_ends, vocabulary_metadata
from optimizer.exporters.logical import LogicalBundle
from optimizer.exporters.record import ExportRecord
from optimizer.importers.gguf_config import ROPE_FACTORS
from optimizer.importers.gguf_model import gguf_name
from runtime.models import checkpoint_tensors
from runtime.rope import inverse_frequencies

_ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
RECORD_KEY = "coldforge.export"


def export_gguf(logical: LogicalBundle, path: Path) -> ExportRecord:
    """Write the bundle as one file; what was changed is also its metadata `coldforge.export`. Raises ExportError."""
    a = logical.architecture
    record = ExportRecord(logical.manifest, "gguf")
    _check(a, record)
    metadata = _architecture_metadata(a)
    metadata |= vocabulary_metadata(logical.tokenizer_json, a.vocab_size, logical.generation_config, logical.chat_template)
    if unsaid := unsaid_ends(metadata, logical.generation_config):
        record.note(
            f"ends of sequence: GGUF has keys for three; llama.cpp ends replies at {', '.join(map(str, unsaid))} only where it "
            "knows their names"
        )
    # The record is part of the header, so matrices are packed twice: once to see what changes, once to write them.
    for _ in _matrices(logical, record):
        pass
    if any(kind.name.startswith("Q") for _, _, kind in _shapes(logical)):
        record.note(
            "activations: llama.cpp rounds what meets a quantized matrix to 8 bits in blocks of 32, whatever the bundle does"
        )

    writer = GGUFWriter(path, _ARCHITECTURES[a.family])
    writer.add_name(logical.manifest.name)
    writer.add_quantization_version(2)
    for key, value in {**metadata, RECORD_KEY: record.json()}.items():
        _add(writer, key, value)
    floats = {gguf_name(name): _permuted(a, name, values) for name, values in logical.floats()}
    if a.rope.scaling == "llama3":
        unscaled = a.rope.model_copy(update={"scaling": "none"})
        floats[ROPE_FACTORS] = inverse_frequencies(unscaled, a.head_dim) / inverse_frequencies(a.rope, a.head_dim)
    for name, values in floats.items():
        writer.add_tensor_info(name, values.shape, values.dtype, values.nbytes)
    for name, shape, kind in _shapes(logical):
        block_size, block_bytes = GGML_QUANT_SIZES[kind]
        num_bytes = shape[0] * shape[1] // block_size * block_bytes
        writer.add_tensor_info(name, shape, np.dtype(np.float32), num_bytes, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for values in floats.values():
        writer.write_tensor_data(values)
    for data in _matrices(logical, None):
        writer.write_tensor_data(data)
    writer.close()
    return record


def _check(a: Architecture, record: ExportRecord) -> None:
    if a.family not in _ARCHITECTURES:
        raise ExportError(f"a model can be exported of the families {', '.join(_ARCHITECTURES)}, got {a.family!r}")
    if a.layer_windows and a.family != "mistral":
        raise ExportError(f"GGUF cannot express in which layers a {a.family} model has a sliding window; export it as onnx")
    if a.qkv_bias and a.family == "qwen3":
        raise ExportError("llama.cpp's qwen3 has no biases, and this model has; export it as compressed-tensors or onnx")
    if a.rope.attention_factor is not None:
        raise ExportError(
            "a model with its own yarn attention_factor cannot be exported as GGUF; export it as compressed-tensors or onnx"
        )
    if a.layer_windows:
        record.note(
            f"attention: llama.cpp does not apply the sliding window of {max(a.layer_windows)} tokens to this architecture; "
            "contexts up to it are computed alike"
        )


def _architecture_metadata(a: Architecture) -> dict[str, object]:
    name = _ARCHITECTURES[a.family]
    values: dict[str, object] = {
        "vocab_size": a.vocab_size,
        "block_count": a.num_layers,
        "context_length": a.max_position,
        "embedding_length": a.hidden_size,
        "feed_forward_length": a.intermediate_size,
        "attention.head_count": a.num_q_heads,
        "attention.head_count_kv": a.num_kv_heads,
        "attention.key_length": a.head_dim,
        "attention.value_length": a.head_dim,
        "attention.layer_norm_rms_epsilon": a.rms_norm_eps,
        "rope.dimension_count": a.head_dim,
        "rope.freq_base": a.rope.theta,
    }
    if a.layer_windows:
        values["attention.sliding_window"] = max(a.layer_windows)
    if a.rope.scaling in ("linear", "yarn"):
        values |= {"rope.scaling.type": a.rope.scaling, "rope.scaling.factor": a.rope.factor}
    if a.rope.scaling == "yarn":
        assert a.rope.original_max_position is not None  # Rope validates it
        values |= {
            "rope.scaling.original_context_length": a.rope.original_max_position,
            "rope.scaling.yarn_beta_fast": a.rope.beta_fast,
            "rope.scaling.yarn_beta_slow": a.rope.beta_slow,
        }
    return {f"{name}.{key}": value for key, value in values.items()}


def _add(writer: GGUFWriter, key: str, value: object) -> None:
    """llama.cpp wants its counts unsigned."""
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        assert isinstance(value, list)
        writer.add_array(key, value)


def _shapes(logical: LogicalBundle) -> Iterator[tuple[str, tuple[int, int], Kind]]:
    """(name, shape, type) of every matrix, in the order of `_matrices`."""
    parts = checkpoint_tensors(logical.architecture)
    for group, (_, num_columns) in logical.architecture.linear_shapes().items():
        for part in parts[f"{group}.weight"]:
            yield gguf_name(part.name), (part.shape[0], num_columns), block_kind(logical.scheme(group), num_columns)


def _matrices(logical: LogicalBundle, record: ExportRecord | None) -> Iterator[Array]:
    """The data of every matrix, rows in llama.cpp's order; `record` takes note of those whose values change."""
    for group, (_, num_columns) in logical.architecture.linear_shapes().items():
        kind = block_kind(logical.scheme(group), num_columns)
        for module, matrix in logical.projections(group):
            name = f"{module}.weight"
            data = blocks(name, matrix, kind)
            if record is not None and kind in (Kind.Q8_0, Kind.Q4_1, Kind.F16):
                after = dequantize(data, kind)
                record.changed(gguf_name(name), matrix.scheme.name, kind.name, reason(kind), matrix.dequantize(), after)
            yield _permuted(logical.architecture, name, data)


def _permuted(a: Architecture, name: str, rows: Array) -> Array:
    """Rows of a llama's q and k as llama.cpp has them: those that rotate together, i and i + head_dim / 2, side by side."""
    projection = name.split(".")[-2]
    if _ARCHITECTURES[a.family] != "llama" or projection not in ("q_proj", "k_proj"):
        return np.ascontiguousarray(rows)
    heads = a.num_q_heads if projection == "q_proj" else a.num_kv_heads
    halves = rows.reshape(heads, 2, a.head_dim // 2, *rows.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)
