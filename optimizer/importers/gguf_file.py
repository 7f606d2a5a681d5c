"""A GGUF file: metadata, tensor headers, and a tensor's data as fp32 when it is asked for.

The format is ggml's docs/gguf.md, versions 2 and 3, little-endian. The `gguf` package dequantizes; its reader is not used
because it makes numpy objects of every vocabulary entry (2 s and 165 MB for 49 thousand tokens).
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from numpy.typing import NDArray

from optimizer.importers.errors import DamagedFile, UnsupportedDtype

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_ROWS_AT_ONCE = 1024
#: Weights that share a scale in Q4_0, Q8_0 and MXFP4: a scale, fp16 or in MXFP4 e8m0, then 32 i8 in Q8_0, in the others 16
#: bytes of which byte i has weights i and i + 16.
BLOCK = 32


@dataclass(frozen=True)
class GgufTensor:
    """Header of a tensor. `shape` is row-major, outermost first; `offset` and `num_bytes` locate it in the file `path`."""

    path: Path
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    offset: int
    num_bytes: int


@dataclass(frozen=True)
class GgufFile:
    """`path` has the metadata; tensors say themselves where they are."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, GgufTensor]

    @classmethod
    def open(cls, path: Path) -> GgufFile:
        """Reads and checks the header. Raises DamagedFile (not GGUF, truncated) and UnsupportedDtype."""
        size = path.stat().st_size
        if size == 0:
            raise DamagedFile(f"{path} is empty")
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            cursor = _Cursor(data, path)
            magic, version = cursor.take(4), cursor.integer("I")
            if magic != b"GGUF" or version not in (2, 3):
                raise DamagedFile(
                    f"{path} must start with GGUF and version 2 or 3 (little-endian), got {magic!r} and {version}"
                )
            num_tensors, num_keys = cursor.integer("Q"), cursor.integer("Q")
            metadata = {cursor.text(): cursor.value(cursor.integer("I")) for _ in range(num_keys)}
            headers = [cursor.tensor_header() for _ in range(num_tensors)]
            header_bytes = cursor.position

        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1:
            raise DamagedFile(f"{path}: general.alignment must be a positive integer, got {alignment!r}")
        data_start = -(-header_bytes // alignment) * alignment
        tensors = {}
        for name, dims, kind, offset in headers:
            tensor = _located(path, name, dims, kind, data_start + offset)
            if tensor.offset + tensor.num_bytes > size:
                raise DamagedFile(
                    f"{path} is truncated: {name} ends at byte {tensor.offset + tensor.num_bytes}, the file at {size}"
                )
            tensors[name] = tensor
        return cls(path, metadata, tensors)

    def read(self, name: str, chosen: slice = slice(None)) -> NDArray[np.float32]:
        """What is `chosen` along the outermost axis of tensor `name`, dequantized, row-major.

        The file is mapped for the time of the call only.
        """
        tensor = self.tensors[name]
        if len(tensor.shape) == 1:  # one row, which may be one block
            return self._read(tensor, self._rows(name)).reshape(-1)[chosen]
        return self._read(tensor, self._rows(name, chosen)).reshape(-1, *tensor.shape[1:])

    def _read(self, tensor: GgufTensor, rows: NDArray[np.uint8]) -> NDArray[np.float32]:
        values = np.empty((rows.shape[0], tensor.shape[-1]), dtype=np.float32)
        for start in range(0, rows.shape[0], _ROWS_AT_ONCE):  # temporaries stay small
            chunk = slice(start, start + _ROWS_AT_ONCE)
            values[chunk] = dequantize(np.ascontiguousarray(rows[chunk]), tensor.kind)
        return values

    def read_codes(self, name: str, chosen: slice = slice(None)) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Codes [..., N, K] and scales [..., N, K / 32] of what is `chosen` of a matrix, or of many, in one of three types.

        Values are scale (code - 8) in Q4_0, scale (code - 128) in Q8_0, scale e2m1(code) in MXFP4.
        """
        inner, kind = self.tensors[name].shape[1:], self.tensors[name].kind
        rows = self._rows(name, chosen)
        blocks = rows.reshape(len(rows), inner[-1] // BLOCK, -1)
        head = 1 if kind == GGMLQuantizationType.MXFP4 else 2
        stored = blocks[:, :, head:]
        if kind == GGMLQuantizationType.MXFP4:
            # e8m0: an exponent alone; the largest code is no number
            with np.errstate(over="ignore"):
                scales = np.ldexp(np.float32(1), blocks[:, :, 0].astype(np.int32) - 127)
        else:
            scales = np.ascontiguousarray(blocks[:, :, :head]).view("<f2")[:, :, 0].astype(np.float32)
        if kind == GGMLQuantizationType.Q8_0:
            codes = stored ^ np.uint8(128)  # from two's complement
        else:
            codes = np.concatenate((stored & np.uint8(15), stored >> np.uint8(4)), axis=2)
        return codes.reshape(-1, *inner), scales.reshape(-1, *inner[:-1], inner[-1] // BLOCK)

    def _rows(self, name: str, chosen: slice = slice(None)) -> NDArray[np.uint8]:
        """What is `chosen` of tensor `name` as stored, mapped: bytes [rows, bytes of a row]."""
        tensor = self.tensors[name]
        stored = np.memmap(tensor.path, np.uint8, "r", tensor.offset, (tensor.num_bytes,))
        by_row = stored.reshape(*tensor.shape[:-1], -1)[chosen]
        return by_row.reshape(-1, by_row.shape[-1])


def _located(path: Path, name: str, dims: tuple[int, ...], kind: int, offset: int) -> GgufTensor:
    """`dims` innermost first, as stored. UnsupportedDtype for a type that the gguf package cannot dequantize."""
    where = f"{name} in {path}"
    try:
        dtype = GGMLQuantizationType(kind)
        per_block, block_bytes = GGML_QUANT_SIZES[dtype]
        dequantize(np.zeros((1, block_bytes), dtype=np.uint8), dtype)
    except (ValueError, KeyError):
        raise UnsupportedDtype(f"{where} has GGML type {kind}, which the installed gguf package does not know") from None
    except NotImplementedError:
        raise UnsupportedDtype(f"{where} is stored as {dtype.name}, which the gguf package cannot dequantize") from None
    if not dims or dims[0] % per_block:
        raise DamagedFile(f"{where} must have rows in multiples of {dtype.name}'s block of {per_block}, got {dims[:1]}")
    return GgufTensor(path, dims[::-1], dtype, offset, math.prod(dims) // per_block * block_bytes)


@dataclass
class _Cursor:
    """Reads the header's values in order."""

    data: mmap.mmap
    path: Path
    position: int = 0

    def take(self, num_bytes: int) -> bytes:
        end = self.position + num_bytes
        if end > len(self.data):
            raise DamagedFile(f"{self.path} is truncated: its header goes on past its end at byte {len(self.data)}")
        chunk = self.data[self.position : end]
        self.position = end
        return chunk

    def integer(self, code: str) -> int:
        return int.from_bytes(self.take(struct.calcsize(f"<{code}")), "little")

    def text(self) -> str:
        return self.take(self.integer("Q")).decode("utf-8", errors="replace")

    def value(self, kind: int) -> Any:
        """A metadata value of GGUF type `kind`; arrays become lists."""
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            item, count = self.integer("I"), self.integer("Q")
            if item in _SCALARS:
                items = self.take(count * struct.calcsize(f"<{_SCALARS[item]}"))
                return list(struct.unpack(f"<{count}{_SCALARS[item]}", items))
            return [self.value(item) for _ in range(count)]
        if kind not in _SCALARS:
            raise DamagedFile(f"{self.path} has a metadata value of type {kind} at byte {self.position}; types go to 12")
        layout = struct.Struct(f"<{_SCALARS[kind]}")
        (value,) = layout.unpack(self.take(layout.size))
        return value

    def tensor_header(self) -> tuple[str, tuple[int, ...], int, int]:
        """Name, dims innermost first, type, offset into the data."""
        name = self.text()
        dims = tuple(self.integer("Q") for _ in range(self.integer("I")))
        return name, dims, self.integer("I"), self.integer("Q")
