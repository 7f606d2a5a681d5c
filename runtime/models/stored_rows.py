"""How what a checkpoint stores becomes what is meant: which tensor, which of its rows, in which order, and a norm's gain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class HeadRows:
    """Rows `start` to `stop` of each of `num_heads` equal shares of a matrix's rows."""

    num_heads: int
    start: int
    stop: int
    transposed: bool

    def of(self, matrix: Tensor) -> Tensor:
        """[heads, stop - start, K], or with the last two axes exchanged."""
        rows = matrix.view(self.num_heads, -1, matrix.shape[1])[:, self.start : self.stop]
        return (rows.transpose(1, 2) if self.transposed else rows).contiguous()


@dataclass(frozen=True)
class HeadOrder:
    """All rows, with those of each of the first `num_heads` heads in `order`: what turns together then stands as here."""

    num_heads: int
    order: tuple[int, ...]

    def of(self, rows: Tensor) -> Tensor:
        """The same shape."""
        num_rows, ordered = self.num_heads * len(self.order), rows.clone()
        heads = rows[:num_rows].reshape(self.num_heads, len(self.order), *rows.shape[1:])
        ordered[:num_rows] = heads[:, list(self.order)].flatten(0, 1)
        return ordered


@dataclass(frozen=True)
class Together:
    """The rows of all matrices of a tensor, one matrix after the other; or their biases."""

    transposed: bool = False
    """Whether a matrix is stored as [K, N]."""
    by_turns: bool = False
    """Whether rows 2 i and 2 i + 1 are those that here are i and i + N / 2: gate and up by turns."""

    def of(self, matrices: Tensor) -> Tensor:
        """[experts, N, K] -> [experts * N, K], or without K."""
        rows = matrices.transpose(1, 2) if self.transposed else matrices
        if self.by_turns:
            rows = rows.reshape(len(rows), -1, 2, *rows.shape[2:]).transpose(1, 2).flatten(1, 2)
        return rows.flatten(0, 1)

    def order(self, num_matrices: int, num_rows: int) -> list[int]:
        """Of `num_rows` rows of matrices that are not transposed, which stand here one after the other."""
        each = num_rows // num_matrices
        rows = [*range(0, each, 2), *range(1, each, 2)] if self.by_turns else range(each)
        return [matrix * each + row for matrix in range(num_matrices) for row in rows]


@dataclass(frozen=True)
class Gain:
    """A norm's gain, made of what is stored: (stored + added) / divisor."""

    added: float
    divisor: float

    def of(self, stored: Tensor) -> Tensor:
        """fp32."""
        return (stored.float() + self.added) / self.divisor


@dataclass(frozen=True)
class Part:
    """A checkpoint's tensor: its name, the shape that the config implies, and the config keys that imply it.

    `rows` says which of it are meant and in which order, where that is not all as they are; `gain` how it is meant, where that
    is not as it is stored.
    """

    name: str
    shape: tuple[int, ...]
    config_keys: str
    rows: HeadRows | HeadOrder | Together | None = None
    gain: Gain | None = None

    def taken_from(self, stored: Tensor) -> Tensor:
        """What of the checkpoint's tensor `name` is meant."""
        part = stored if self.rows is None else self.rows.of(stored)
        return part if self.gain is None else self.gain.of(part)
