"""What kernels know of a kind of weights: the values of its codes, and its tensors on each target.

A matrix W[N, K] is first its *logical parts*, of N rows, which no target changes; a layout makes them the tensors that kernels
read. On a CPU these are row tiles: row-major parts [N, ...] whose rows are joined 16 at a time and padded with zeros, so that
one vector register holds the same k of 16 output channels: [N, X, ...] -> [N/16, X, 16, ...], and [N] -> [N/16, 16].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kernels.spec import DTYPES, Array, Tensor, axis_divisor, axis_name

LANES = 16

#: name -> array, as a bundle names them
Parts: TypeAlias = Mapping[str, NDArray[Any]]


class Decoded(NamedTuple):
    """W = units, times the scale of their group of columns, times that of their row; in this order where there are both."""

    units: NDArray[Any]
    """[N, K]: integers, or floats of few bits. Times the scale of a group they are exact in fp32, but for fp8-block."""
    group_scales: NDArray[Any] | None = None
    """f32 or f16 [N, groups]."""
    row_scales: NDArray[Any] | None = None
    """f32 [N]."""
    width: int = 0
    """Columns that share a scale of a group; 0: as many as groups make even. The last group may be cut."""

    @property
    def group_size(self) -> int:
        return self.width or self.units.shape[1] // (1 if self.group_scales is None else self.group_scales.shape[1])

    def values(self) -> NDArray[np.float32]:
        """The matrix that kernels multiply by, fp32 [N, K]."""
        made = self.units.astype(np.float32)
        if self.group_scales is not None:
            spread = np.repeat(self.group_scales.astype(np.float32), self.group_size, axis=1)
            made *= spread[:, : made.shape[1]]
        if self.row_scales is not None:
            made *= self.row_scales[:, None]
        return made


@dataclass(frozen=True)
class CpuPacking:
    """Weights in row tiles.

    `name` is what the symbol of `embedding` ends in, `products` what those of `quant_matmul` do: one for each kind of
    activations that these tensors serve. `tensors` are the parts before rows are joined, over axes N, K and groups.
    """

    name: str
    products: tuple[str, ...]
    tensors: tuple[Tensor, ...]
    to_rows: Callable[[Parts], dict[str, Array]]
    """Logical parts -> `tensors`, of so many rows."""
    from_rows: Callable[[Parts], dict[str, Array]]
    """The inverse of `to_rows`."""
    random: Callable[[np.random.Generator, NDArray[np.float32], int], dict[str, Array]]
    """Logical parts for tests and measurements, of the shape and size of values f32 [N, K], for a group size."""
    codes_per_byte: int = 1
    """Of the logical part `codes`."""

    def tiled(self, tiles: str, k: str) -> tuple[Tensor, ...]:
        """The tensors as those of an op, for its axis of row tiles and its axis of K."""
        made = []
        for tensor in self.tensors:
            _, *rest = (axis.replace("K", k) if isinstance(axis, str) else axis for axis in tensor.axes)
            made.append(replace(tensor, axes=(tiles, *rest[:1], LANES, *rest[1:])))
        return tuple(made)

    def bits(self, group_size: int) -> float:
        """Of a weight, scales of rows aside."""
        sizes = {"K": 1.0, "groups": 1 / group_size if group_size else 0.0}
        total = 0.0
        for tensor in self.tensors:
            if len(tensor.axes) > 1:
                each = 8 * np.dtype(DTYPES[tensor.dtype][0]).itemsize * prod(n for n in tensor.axes if isinstance(n, int))
                total += each * sizes[axis_name(tensor.axes[1]) or ""] / axis_divisor(tensor.axes[1])
        return total

    def pack(self, parts: Parts) -> dict[str, Array]:
        """Logical parts -> row tiles, new arrays. ValueError where K does not suit the layout."""
        columns = parts.get("codes", parts.get("weight"))
        assert columns is not None
        multiple = max(axis_divisor(axis) for tensor in self.tensors for axis in tensor.axes)
        num_columns = columns.shape[1] * self.codes_per_byte
        if num_columns % multiple:
            raise ValueError(f"{self.name} codes pack {multiple} to a word: K must be a multiple of it, got {num_columns}")
        return {name: _tiled(rows) for name, rows in self.to_rows(parts).items()}

    def unpack(self, packed: Parts, num_rows: int) -> dict[str, Array]:
        """The inverse of `pack`; `num_rows` is N, which padding hides."""
        return self.from_rows({name: untiled(tiles)[:num_rows] for name, tiles in packed.items()})


@dataclass(frozen=True)
class GpuPacking:
    """Weights as GPU kernels read them, and which of them do."""

    name: str
    """Of the scheme, group size aside."""
    tensors: tuple[Tensor, ...]
    """Over axes N, K and groups; `weight` is bf16 whatever the activation dtype."""
    matmul: str
    """The entry point that multiplies by them."""
    pack: Callable[[Parts], dict[str, Array]]
    unpack: Callable[[Parts, int, int], dict[str, Array]]
    """(tensors, N, K) -> logical parts."""
    form: str = ""
    """How activations must come: "" as they are, int8, e4m3, e4m3_block or e4m3_tensor."""
    embedding: str | None = None
    """What the symbol of the embedding that looks rows up in them ends in."""
    experts: str | None = None
    """What that of the experts' product ends in; None where activations have static scales, which no mixture has."""

    @property
    def needs_fp8(self) -> bool:
        """Whether matrix units must multiply e4m3."""
        return any(tensor.dtype == "e4m3" for tensor in self.tensors)


@dataclass(frozen=True)
class Format:
    """A kind of weights. `weights` is its name in artifacts/weight_formats.py."""

    weights: str
    decode: Callable[[Parts], Decoded]
    """Logical parts of any rows -> their values; `weight` and scales may be wider than they are stored."""
    cpu: tuple[CpuPacking, ...] = ()
    gpu: tuple[GpuPacking, ...] = ()
    codes_per_byte: int = 1


def kept(parts: Parts) -> dict[str, Array]:
    """Parts that lie as they are."""
    return dict(parts)


def kept_of(parts: Parts, num_rows: int, num_columns: int) -> dict[str, Array]:
    """The same, for `GpuPacking.unpack`."""
    return dict(parts)


def _tiled(rows: Array) -> Array:
    """[N, X, ...] -> [N/16, X, 16, ...], [N] -> [N/16, 16]; rows padded with zeros."""
    if rows.ndim == 3:
        tiles = _tiled(_as_words(rows))
        return tiles.view(rows.dtype).reshape(*tiles.shape, rows.shape[2])
    count, whole = len(rows), len(rows) // LANES
    tiles = np.zeros((-(-count // LANES), *rows.shape[1:], LANES), rows.dtype)
    by_row = tiles if rows.ndim == 1 else tiles.swapaxes(1, 2)
    by_row[:whole] = rows[: whole * LANES].reshape(whole, LANES, *rows.shape[1:])
    if count % LANES:
        by_row[whole, : count % LANES] = rows[whole * LANES :]
    return tiles


def untiled(tiles: Array) -> Array:
    """The rows of tiles, padding included."""
    if tiles.ndim == 4:
        rows = untiled(_as_words(tiles))
        return rows.view(tiles.dtype).reshape(*rows.shape, tiles.shape[3])
    by_row = tiles if tiles.ndim == 2 else tiles.swapaxes(1, 2)
    return np.ascontiguousarray(by_row).reshape(-1, *by_row.shape[2:])


def _as_words(array: Array) -> Array:
    """The last axis, of a few bytes, as one unsigned integer, which moves as a whole."""
    return np.ascontiguousarray(array).view(f"u{array.itemsize * array.shape[-1]}")[..., 0]
