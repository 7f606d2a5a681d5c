"""A GGUF file, as llama.cpp's converter would write it, of the bundle's own codes and scales."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFWriter
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize

from kernels.spec import Array
from optimizer.exporters.gguf_blocks import block_kind, blocks, reason
from optimizer.exporters.gguf_layout import GgufLayout
from optimizer.exporters.gguf_metadata import architecture_metadata, check_read_back, gguf_family, known_as, rope_tensors
from optimizer.exporters.gguf_vocabulary import unsaid_ends, vocabulary_metadata
from optimizer.exporters.logical import LogicalBundle, rows_of
from optimizer.exporters.record import ExportRecord

RECORD_KEY = "coldforge.export"


def export_gguf(logical: LogicalBundle, path: Path) -> ExportRecord:
    """Write the bundle as one file; what was changed is also its metadata `coldforge.export`. Raises ExportError."""
    a = known_as(logical.architecture)
    logical = replace(logical, architecture=a)
    record = ExportRecord(logical.manifest, "gguf")
    family = gguf_family(a)
    if a.layer_windows and family.windows and not family.windows.applied:
        record.note(
            f"attention: llama.cpp does not apply the sliding window of {max(a.layer_windows)} tokens to this architecture; "
            "contexts up to it are computed alike"
        )
    if not a.rope.truncate:
        record.note("positions: llama.cpp rounds the bounds of yarn's ramp to whole dimensions, and this model does not")
    metadata = architecture_metadata(a, family)
    metadata |= vocabulary_metadata(
        logical.tokenizer_json, a.vocab_size, logical.generation_config, logical.chat_template, family.vocabulary
    )
    if unsaid := unsaid_ends(metadata, logical.generation_config):
        record.note(
            f"ends of sequence: GGUF has keys for three; llama.cpp ends replies at {', '.join(map(str, unsaid))} only where it "
            "knows their names"
        )
    layout = GgufLayout(a, family)
    plain = ((name, values) for name, values in logical.floats() if not name.endswith((".kv_b_proj.weight", "_proj_bias")))
    floats = {layout.name(name): layout.floats(name, values) for name, values in plain}
    floats |= layout.others(logical.bundle.tensors) | rope_tensors(a)
    matrices = [name for name, _, _ in _shapes(logical, layout)]
    check_read_back(a, {**metadata, "general.architecture": family.architecture}, [*floats, *matrices], floats)
    # The record is part of the header, so matrices are packed twice: once to see what changes, once to write them.
    for _ in _matrices(logical, layout, record):
        pass
    if any(kind.name.startswith("Q") for _, _, kind in _shapes(logical, layout)):
        record.note(
            "activations: llama.cpp rounds what meets a quantized matrix to 8 bits in blocks of 32, whatever the bundle does"
        )

    writer = GGUFWriter(path, family.architecture)
    writer.add_name(logical.manifest.name)
    writer.add_quantization_version(2)
    for key, value in {**metadata, RECORD_KEY: record.json()}.items():
        _add(writer, key, value)
    for name, values in floats.items():
        writer.add_tensor_info(name, values.shape, values.dtype, values.nbytes)
    for name, shape, kind in _shapes(logical, layout):
        block_size, block_bytes = GGML_QUANT_SIZES[kind]
        num_bytes = math.prod(shape) // block_size * block_bytes
        writer.add_tensor_info(name, shape, np.dtype(np.float32), num_bytes, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for values in floats.values():
        writer.write_tensor_data(values)
    for data in _matrices(logical, layout, None):
        writer.write_tensor_data(data)
    writer.close()
    return record


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


def _shapes(logical: LogicalBundle, layout: GgufLayout) -> Iterator[tuple[str, tuple[int, ...], Kind]]:
    """(name, shape, type) of every matrix, in the order of `_matrices`."""
    for group, (_, num_columns) in logical.architecture.linear_shapes().items():
        for slot in layout.slots(group):
            yield slot.name, slot.shape(num_columns), block_kind(logical.scheme(group), num_columns)


def _matrices(logical: LogicalBundle, layout: GgufLayout, record: ExportRecord | None) -> Iterator[Array]:
    """The data of every matrix, rows in llama.cpp's order; `record` takes note of those whose values change."""
    for group, (_, num_columns) in logical.architecture.linear_shapes().items():
        kind, fused = block_kind(logical.scheme(group), num_columns), logical.matrix(group)
        for slot in layout.slots(group):
            matrices = [rows_of(fused, first, last) for first, last in slot.rows]
            data = np.stack([blocks(slot.name, matrix, kind) for matrix in matrices])
            if record is not None and kind in (Kind.Q8_0, Kind.Q4_1, Kind.F16):
                before = np.stack([matrix.dequantize() for matrix in matrices])
                record.changed(slot.name, fused.scheme.name, kind.name, reason(kind), before, dequantize(data, kind))
            yield layout.rows(slot.part, data[0]) if slot.part else data
