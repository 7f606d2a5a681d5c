"""A Hugging Face folder in the compressed-tensors format, which that library, transformers and vLLM load.

Codes and scales are the bundle's, bit for bit. A layer's scheme becomes a config group with the names of its projections as
targets; layers that stay in floating point are in `ignore`. The format stores a symmetric int4 code less 8, offset by 8
again when it is packed: the bundle's own code. Its scales may be negative, and so may ours. Of NVFP4's scale of the tensor it
stores the reciprocal, by which it divides: exact for what was quantized here, whose scales are powers of two.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from artifacts.precision import Scheme
from artifacts.weights import SHARD_BYTES, shard_names
from optimizer.exporters.errors import ExportError
from optimizer.exporters.hf_config import hf_config
from optimizer.exporters.logical import LogicalBundle
from optimizer.exporters.record import RECORD_NAME, ExportRecord
from optimizer.exporters.tokenizer_files import write_tokenizer_files
from optimizer.formats.float4 import divisor
from optimizer.formats.matrix import QuantizedMatrix
from optimizer.formats.table import CODECS

FloatDtype = Literal["float16", "bfloat16", "float32"]
_TORCH_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
_TIED_HEAD = "lm_head"


def export_compressed_tensors(logical: LogicalBundle, folder: Path, dtype: FloatDtype = "float16") -> ExportRecord:
    """Write the bundle into the empty `folder`. `dtype` is what readers compute in, and what a table is widened to.

    float16 is what keeps fp16 scales and loses least of the rest; bfloat16 has the range for activations beyond 65504.
    Raises ExportError.
    """
    logical.require_dense("compressed-tensors")
    record = ExportRecord(logical.manifest, "compressed-tensors")
    config = hf_config(logical.architecture, logical.generation_config) | {"torch_dtype": dtype}
    if groups := _config_groups(logical, record):
        formats = {str(group["format"]) for group in groups.values()}
        config["quantization_config"] = {
            "quant_method": "compressed-tensors",
            "format": formats.pop() if len(formats) == 1 else "mixed-precision",
            "quantization_status": "compressed",
            "config_groups": groups,
            "ignore": _ignored(logical),
        }
    if logical.manifest.precision.kv_cache in ("int8", "fp8"):
        record.note(f"KV cache: the bundle's {logical.manifest.precision.kv_cache} with scales per token is not stated")
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    _write_shards(folder, _tensors(logical, dtype, record))
    write_tokenizer_files(logical, folder)
    (folder / RECORD_NAME).write_text(record.json() + "\n")
    return record


def _config_groups(logical: LogicalBundle, record: ExportRecord) -> dict[str, dict[str, object]]:
    """One config group for each scheme, its targets in the order of layers."""
    targets: dict[Scheme, list[str]] = {}
    for group in logical.architecture.linear_shapes():
        scheme = logical.scheme(group)
        if group == "embed" or scheme.is_float:
            continue
        if scheme.int8_activations and not scheme.storage.int8_activations:
            record.note(
                f"activations: layers in {scheme.name} are exported as weight-only int4, for the engines that load this have "
                "no int8 activations beside it on every device; they compute closer to float than the bundle"
            )
        if scheme.name == "int8":
            record.note("scales: engines that keep scales in the model's dtype round int8's fp32 scales to it when they load")
        targets.setdefault(scheme.storage, []).extend(logical.modules(group))
    schemes = sorted(targets, key=lambda scheme: scheme.name)
    return {
        f"group_{i}": {"targets": targets[scheme]} | CODECS[scheme.weights].compressed_tensors.group(scheme)
        for i, scheme in enumerate(schemes)
    }


def _ignored(logical: LogicalBundle) -> list[str]:
    """Linear modules in floating point. A tied head reads the embedding, which is."""
    groups = [group for group in logical.architecture.linear_shapes() if group != "embed"]
    ignored = [name for g in groups if logical.scheme(g).is_float for name in logical.modules(g)]
    return ignored + ([_TIED_HEAD] if logical.architecture.tie_embeddings else [])


def _tensors(logical: LogicalBundle, dtype: FloatDtype, record: ExportRecord) -> Iterator[tuple[str, torch.Tensor]]:
    for name, values in logical.floats():
        _check_range(name, values, dtype)
        yield name, torch.from_numpy(values.copy())
    for group in logical.architecture.linear_shapes():
        for module, matrix in logical.projections(group):
            if group == "embed" and matrix.scales is not None:
                yield f"{module}.weight", _widened(module, matrix, dtype, record)
            else:
                if matrix.row_scales is not None:
                    _record_divisor(module, matrix, record)
                parts = CODECS[matrix.scheme.weights].compressed_tensors.tensors(matrix)
                yield from ((f"{module}.{part}", tensor) for part, tensor in parts.items())


def _widened(module: str, matrix: QuantizedMatrix, dtype: FloatDtype, record: ExportRecord) -> torch.Tensor:
    values = matrix.dequantize()
    _check_range(module, values, dtype)
    widened = torch.from_numpy(values).to(_TORCH_DTYPES[dtype])
    why = "engines read an embedding table, and a head that is tied to it, in floating point"
    record.changed(f"{module}.weight", matrix.scheme.name, dtype, why, values, widened.float().numpy())
    if matrix.scheme.int8_activations:
        record.note("activations: a head that is tied to the embedding meets them unrounded, not in int8")
    return widened


def _record_divisor(module: str, matrix: QuantizedMatrix, record: ExportRecord) -> None:
    stored = matrix.parts["row_scales"]
    read = matrix.with_part("row_scales", np.full(len(stored), np.float32(1) / divisor(stored), np.float32))
    why = "the format divides by the tensor's scale, and no fp32 divisor is the reciprocal of this one"
    record.changed(f"{module}.weight", "nvfp4", "nvfp4", why, matrix.dequantize(), read.dequantize())


def _check_range(name: str, values: NDArray[np.float32], dtype: FloatDtype) -> None:
    largest = float(np.abs(values).max(initial=0.0))
    if dtype == "float16" and largest > float(np.finfo(np.float16).max):
        raise ExportError(f"{name} has a magnitude of {largest:.6g}, beyond float16's 65504; export with --dtype bfloat16")


def _write_shards(folder: Path, tensors: Iterator[tuple[str, torch.Tensor]]) -> None:
    """Shards of at most SHARD_BYTES, unless one tensor is larger, of which one is in memory at a time; and their index."""
    places: dict[str, int] = {}
    num_shards, num_bytes, shard = 0, 0, dict[str, torch.Tensor]()

    def write() -> None:
        nonlocal num_shards
        save_file(shard, folder / f"{num_shards}.partial", metadata={"format": "pt"})
        places.update(dict.fromkeys(shard, num_shards))
        num_shards += 1
        shard.clear()

    for name, tensor in tensors:
        if shard and sum(t.nbytes for t in shard.values()) + tensor.nbytes > SHARD_BYTES:
            write()
        shard[name] = tensor
        num_bytes += tensor.nbytes
    write()
    names = shard_names(num_shards)
    for i, name in enumerate(names):
        (folder / f"{i}.partial").rename(folder / name)
    if num_shards > 1:
        index = {"metadata": {"total_size": num_bytes}, "weight_map": {name: names[i] for name, i in places.items()}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
