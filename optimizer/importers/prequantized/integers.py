"""Integer matrices of compressed-tensors: packed into words, or a byte each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optimizer.formats.stored_matrix import StoredMatrix
from optimizer.importers.errors import DamagedTensor, ShapeMismatch
from optimizer.importers.prequantized.method import Grid
from optimizer.importers.prequantized.module import Module
from optimizer.importers.prequantized.words import KINDS, Bits, unpack_words

_SCALE, _ZERO, _GROUPS = "weight_scale", "weight_zero_point", "weight_g_idx"


@dataclass(frozen=True)
class _Integers:
    """value = scale (code - zero point) with signed codes; both are kept unsigned, 2^(bits - 1) higher."""

    bits: Bits
    symmetric: bool
    grid: Grid

    @property
    def _middle(self) -> int:
        return 1 << self.bits - 1

    def _companions(self, module: Module) -> set[str]:
        return {_SCALE, *(() if self.symmetric else (_ZERO,)), *((_GROUPS,) if module.has(_GROUPS) else ())}

    def _check_companions(self, module: Module, shape: tuple[int, int]) -> None:
        module.expect_scales(_SCALE, self.grid.scales_shape(shape), "the weight's strategy and shape")
        if module.has(_GROUPS):
            module.expect(_GROUPS, ("I32", "I64"), (shape[1],), "act-order and the weight's columns")

    def _matrix(self, module: Module, codes: NDArray[np.uint8], zeros: NDArray[np.uint8] | None) -> StoredMatrix:
        rows, columns = self.grid.extents(codes.shape)
        scales = module.scales(_SCALE, self.grid.scales_shape(codes.shape))
        groups = read_groups(module, _GROUPS, scales.shape[1], columns) if module.has(_GROUPS) else None
        return StoredMatrix(KINDS[self.bits], codes, scales, rows, columns, zeros, groups)


@dataclass(frozen=True)
class PackQuantized(_Integers):
    """pack-quantized: `weight_packed` i32 [N, ceil(K bits / 32)], zero points packed along the rows, `weight_shape`."""

    def shape(self, module: Module) -> tuple[int, int]:
        rows, words = module.matrix_shape("weight_packed", "I32", "pack-quantized codes")
        module.expect("weight_shape", ("I64", "I32"), (2,), "pack-quantized codes")
        num_rows, num_columns = map(int, module.integers("weight_shape").tolist())
        if (num_rows, -(-num_columns * self.bits // 32)) != (rows, words):
            raise ShapeMismatch(
                f"{module.where('weight_packed')} has shape {[rows, words]}, which cannot hold the {self.bits}-bit codes of "
                f"weight_shape {[num_rows, num_columns]}; the config's num_bits is wrong, or the file is damaged"
            )
        return num_rows, num_columns

    def tensors(self, module: Module) -> set[str]:
        return {"weight_packed", "weight_shape"} | self._companions(module)

    def check(self, module: Module) -> None:
        shape = self.shape(module)
        self._check_companions(module, shape)
        if not self.symmetric:
            rows, groups = self.grid.scales_shape(shape)
            module.expect(_ZERO, ("I32",), (-(-rows * self.bits // 32), groups), "asymmetric codes and their groups")

    def read(self, module: Module) -> StoredMatrix:
        num_rows, num_columns = self.shape(module)
        codes = unpack_words(module.integers("weight_packed"), self.bits)[:, :num_columns]
        zeros = None
        if not self.symmetric:
            rows, groups = self.grid.scales_shape((num_rows, num_columns))
            words = module.integers(_ZERO).reshape(-1, groups)
            zeros = np.ascontiguousarray(unpack_words(words.T, self.bits)[:, :rows].T)
        return self._matrix(module, codes, zeros)


@dataclass(frozen=True)
class ByteQuantized(_Integers):
    """int-quantized, or naive-quantized integers: `weight` i8 [N, K], `weight_zero_point` i8 of the scales' shape."""

    def shape(self, module: Module) -> tuple[int, int]:
        return module.matrix_shape("weight", "I8", "int-quantized codes")

    def tensors(self, module: Module) -> set[str]:
        return {"weight"} | self._companions(module)

    def check(self, module: Module) -> None:
        shape = self.shape(module)
        self._check_companions(module, shape)
        if not self.symmetric:
            module.expect(_ZERO, ("I8",), self.grid.scales_shape(shape), "asymmetric codes and their groups")

    def read(self, module: Module) -> StoredMatrix:
        codes = self._unsigned(module, "weight")
        zeros = None
        if not self.symmetric:
            zeros = self._unsigned(module, _ZERO).reshape(self.grid.scales_shape(codes.shape))
        return self._matrix(module, codes, zeros)

    def _unsigned(self, module: Module, last: str) -> NDArray[np.uint8]:
        values = module.bits(last) + np.uint8(self._middle)  # modulo 256: the lowest code becomes 0
        if values.size and values.max() >> self.bits:
            raise DamagedTensor(
                f"{module.where(last)} must hold {self.bits}-bit integers, from {-self._middle} to {self._middle - 1}, but "
                "goes beyond; the config's num_bits is wrong, or the file is damaged"
            )
        return values


def read_groups(module: Module, last: str, num_groups: int, columns: int) -> NDArray[np.int64] | None:
    """The group of each column, None where they are neighbours of `columns`. DamagedTensor if there is no such group."""
    groups = module.integers(last).reshape(-1).astype(np.int64)
    if groups.size and (groups.min() < 0 or groups.max() >= num_groups):
        raise DamagedTensor(
            f"{module.where(last)} must be below the number of groups, {num_groups}, and not negative, got {groups.min()} to "
            f"{groups.max()}; the file is damaged"
        )
    return None if np.array_equal(groups, np.arange(groups.size) // columns) else groups
