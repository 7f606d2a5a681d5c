"""AWQ checkpoints (Lin et al. 2023) as AutoAWQ's "gemm" version writes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AliasChoices, Field, field_validator

from optimizer.formats.stored_matrix import StoredMatrix
from optimizer.importers.prequantized.method import ConfigModel, Format, Grid, names_part
from optimizer.importers.prequantized.module import Module
from optimizer.importers.prequantized.words import unpack_words

#: the nibble of a word that holds column j of eight
_NIBBLES = [0, 4, 1, 5, 2, 6, 3, 7]


class AwqConfig(ConfigModel):
    bits: Literal[4] = Field(validation_alias=AliasChoices("bits", "w_bit"))
    group_size: int = Field(ge=-1, validation_alias=AliasChoices("group_size", "q_group_size"))
    """-1 is a whole row."""
    zero_point: Literal[True] = True
    version: Literal["gemm"] = Field("gemm", validation_alias=AliasChoices("version", "format"))
    modules_to_not_convert: list[str] | None = None

    @field_validator("version", mode="before")
    @classmethod
    def _any_case(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value


@dataclass(frozen=True)
class Awq:
    """`qweight` i32 [K, N / 8], `qzeros` i32 [groups, N / 8], `scales` [groups, N]."""

    config: AwqConfig

    names_every_module = False
    ignored = ()
    has_static_kv_scales = False

    def format(self, module: str, *, is_embedding: bool) -> Format | None:
        excluded = any(names_part(listed, module) for listed in self.config.modules_to_not_convert or ())
        return None if excluded else self

    @property
    def _grid(self) -> Grid:
        return Grid(1, self.config.group_size if self.config.group_size > 0 else None)

    def shape(self, module: Module) -> tuple[int, int]:
        num_columns, words = module.matrix_shape("qweight", "I32", "AWQ's codes")
        return words * 8, num_columns

    def tensors(self, module: Module) -> set[str]:
        return {"qweight", "qzeros", "scales"}

    def check(self, module: Module) -> None:
        num_rows, groups = self._grid.scales_shape(self.shape(module))
        role = f"group_size {self.config.group_size} and qweight"
        module.expect_scales("scales", (groups, num_rows), role)
        module.expect("qzeros", ("I32",), (groups, num_rows // 8), role)

    def read(self, module: Module) -> StoredMatrix:
        shape = self.shape(module)
        num_rows, groups = self._grid.scales_shape(shape)
        codes = unpack_columns(module.integers("qweight"))
        zeros = unpack_columns(module.integers("qzeros").reshape(groups, -1))
        scales = np.ascontiguousarray(module.scales("scales", (groups, num_rows)).T)
        return StoredMatrix("uint4", codes, scales, *self._grid.extents(shape), zeros)


def unpack_columns(words: NDArray[np.int32]) -> NDArray[np.uint8]:
    """i32 [A, N / 8] -> u8 [N, A]."""
    nibbles = unpack_words(words, 4).reshape(len(words), -1, 8)
    return np.ascontiguousarray(nibbles[:, :, _NIBBLES].reshape(len(words), -1).T)
