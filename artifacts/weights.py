"""Safetensors files: mapped without a copy, checked strictly, written in one deterministic form.

Arrays are numpy; bfloat16 travels as uint16, and uint16 therefore always means bfloat16.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from artifacts.errors import WeightsError

Array = NDArray[Any]

DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("<i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U8": np.dtype("<u1"),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}

ALIGNMENT_BYTES = 64
MAX_HEADER_BYTES = 100_000_000
SHARD_BYTES = 4 << 30


@dataclass(frozen=True)
class TensorEntry:
    """Where a tensor lies in its file. `begin` and `end` in bytes from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_header(path: Path) -> dict[str, TensorEntry]:
    """The tensors of a safetensors file, in the order of their data; WeightsError names the rule that it breaks."""
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        length = int.from_bytes(prefix, "little")
        if len(prefix) < 8 or length > size - 8:
            raise _broken(path, f"the header must fit in the file, got {length} bytes in a file of {size}")
        if length > MAX_HEADER_BYTES:
            raise _broken(path, f"the header must be at most {MAX_HEADER_BYTES} bytes, got {length}")
        header = file.read(length)
    try:
        content = json.loads(header, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _broken(path, f"the header must be JSON with unique keys: {error}") from error
    if not header.startswith(b"{") or not isinstance(content, dict):
        raise _broken(path, "the header must be a JSON object that starts with '{'")
    content.pop("__metadata__", None)
    entries = {name: _entry(path, name, value, 8 + length) for name, value in content.items()}
    ordered = sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end))
    position = 8 + length
    for name, entry in ordered:
        if entry.begin != position:
            fault = "overlaps the tensor before it" if entry.begin < position else "leaves a hole before it"
            raise _broken(path, f"tensors must follow each other without gaps; {name!r} {fault}")
        position = entry.end
    if position != size:
        raise _broken(path, f"the data must end where the file ends, got {position} in a file of {size} bytes")
    return dict(ordered)


def map_tensors(path: Path) -> dict[str, Array]:
    """Every tensor of a safetensors file as a read-only view of the mapped file; WeightsError like `read_header`."""
    entries = read_header(path)
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return {
        name: np.frombuffer(data, DTYPES[entry.dtype], math.prod(entry.shape), entry.begin).reshape(entry.shape)
        for name, entry in entries.items()
    }


def shard_tensors(tensors: Mapping[str, Array], shard_bytes: int = SHARD_BYTES) -> list[dict[str, Array]]:
    """`tensors` in name order, cut into shards of at most `shard_bytes`; a larger tensor has a shard to itself."""
    shards: list[dict[str, Array]] = [{}]
    room = shard_bytes
    for name in sorted(tensors):
        if shards[-1] and tensors[name].nbytes > room:
            shards.append({})
            room = shard_bytes
        shards[-1][name] = tensors[name]
        room -= tensors[name].nbytes
    return shards


def shard_names(num_shards: int) -> list[str]:
    """File names of the shards, as Hugging Face numbers them."""
    if num_shards == 1:
        return ["model.safetensors"]
    return [f"model-{i:05d}-of-{num_shards:05d}.safetensors" for i in range(1, num_shards + 1)]


def write_shard(file: BinaryIO, tensors: Mapping[str, Array]) -> tuple[str, int]:
    """Write one safetensors file, tensor by tensor; returns its sha256 and size in bytes.

    The bytes depend on names, dtypes, shapes and values alone. Data starts at a multiple of 64 bytes and tensors
    of a multiple of 64 bytes come first, so that each of them is aligned; the others are aligned to their elements.
    Raises WeightsError for a dtype that the format has no name for here.
    """
    digest, size = hashlib.sha256(), 0
    for chunk in _shard_chunks(tensors):
        file.write(chunk)
        digest.update(chunk)
        size += len(chunk)
    return digest.hexdigest(), size


def _shard_chunks(tensors: Mapping[str, Array]) -> Iterator[bytes | memoryview]:
    names = sorted(tensors, key=lambda name: (tensors[name].nbytes % ALIGNMENT_BYTES != 0, -tensors[name].dtype.itemsize, name))
    header, position = {}, 0
    for name in names:
        array = tensors[name]
        dtype = _NAMES.get(array.dtype)
        if dtype is None:
            raise WeightsError(f"tensor {name!r} must be one of {', '.join(_NAMES.values())}, got {array.dtype}")
        header[name] = {
            "dtype": dtype,
            "shape": list(array.shape),
            "data_offsets": [position, position + array.nbytes],
        }
        position += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode("ascii")
    text += b" " * (-(8 + len(text)) % ALIGNMENT_BYTES)
    yield len(text).to_bytes(8, "little") + text
    for name in names:
        if tensors[name].nbytes:
            yield np.ascontiguousarray(tensors[name]).reshape(-1).view(np.uint8).data


def _entry(path: Path, name: str, value: object, data_start: int) -> TensorEntry:
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise _broken(path, f"tensor {name!r} must have exactly dtype, shape and data_offsets, got {value!r}")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise _broken(path, f"tensor {name!r} must have a dtype of {', '.join(DTYPES)}, got {dtype!r}")
    if not _are_counts(shape):
        raise _broken(path, f"tensor {name!r} must have a shape of non-negative integers, got {shape!r}")
    if not _are_counts(offsets) or len(offsets) != 2:
        raise _broken(path, f"tensor {name!r} must have two non-negative data_offsets, got {offsets!r}")
    begin, end = offsets
    if end - begin != math.prod(shape) * DTYPES[dtype].itemsize:
        raise _broken(path, f"tensor {name!r} of {dtype} {shape} must not span {end - begin} bytes")
    return TensorEntry(dtype, tuple(shape), data_start + begin, data_start + end)


def _are_counts(value: object) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"key {key!r} appears twice")
        result[key] = value
    return result


def _broken(path: Path, rule: str) -> WeightsError:
    return WeightsError(f"{path}: {rule}; the file is damaged or not safetensors: fetch or build it again", path)
