"""GPTQ checkpoints (Frantar et al. 2022) as AutoGPTQ and GPTQModel write them, formats "gptq" (v1) and "gptq_v2"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import AliasChoices, Field, ValidationInfo, field_validator

from optimizer.formats.stored_matrix import StoredMatrix
from optimizer.importers.errors import QuantizationMismatch
from optimizer.importers.prequantized.integers import read_groups
from optimizer.importers.prequantized.method import ConfigModel, Format, Grid
from optimizer.importers.prequantized.module import Module
from optimizer.importers.prequantized.words import KINDS, Bits, unpack_words


class GptqConfig(ConfigModel):
    bits: Bits
    group_size: int = Field(ge=-1)
    """-1 is a whole row."""
    desc_act: bool = False
    sym: bool = False
    """Whether every zero point is the middle of the codes' range."""
    checkpoint_format: Literal["gptq", "gptq_v2"] = Field("gptq", validation_alias=AliasChoices("checkpoint_format", "format"))
    dynamic: dict[str, Any] | None = None
    """GPTQModel's overrides for single modules."""

    @field_validator("dynamic")
    @classmethod
    def _no_module_differs(cls, value: dict[str, Any] | None, info: ValidationInfo) -> dict[str, Any] | None:
        for pattern, override in (value or {}).items():
            changes = override.items() if isinstance(override, dict) else ()
            if not pattern.startswith("-:") and any(info.data.get(key, given) != given for key, given in changes):
                raise ValueError("all quantized modules must be quantized alike")
        return value


@dataclass(frozen=True)
class Gptq:
    """`qweight` i32 [K / pack, N], `qzeros` i32 [groups, N / pack], `scales` [groups, N], `g_idx` [K]."""

    config: GptqConfig

    names_every_module = False
    ignored = ()
    has_static_kv_scales = False

    def format(self, module: str, *, is_embedding: bool) -> Format | None:
        return self

    @property
    def _grid(self) -> Grid:
        return Grid(1, self.config.group_size if self.config.group_size > 0 else None)

    def shape(self, module: Module) -> tuple[int, int]:
        words, num_rows = module.matrix_shape("qweight", "I32", "GPTQ's codes")
        return num_rows, words * 32 // self.config.bits

    def tensors(self, module: Module) -> set[str]:
        return {"qweight", "qzeros", "scales"} | ({"g_idx"} if module.has("g_idx") else set())

    def check(self, module: Module) -> None:
        shape = self.shape(module)
        num_rows, groups = self._grid.scales_shape(shape)
        role = f"group_size {self.config.group_size}, bits {self.config.bits} and qweight"
        module.expect_scales("scales", (groups, num_rows), role)
        module.expect("qzeros", ("I32",), (groups, -(-num_rows * self.config.bits // 32)), role)
        if self.config.desc_act or module.has("g_idx"):
            module.expect("g_idx", ("I32", "I64"), (shape[1],), "desc_act and qweight")

    def read(self, module: Module) -> StoredMatrix:
        bits, shape = self.config.bits, self.shape(module)
        num_rows, num_groups = self._grid.scales_shape(shape)
        codes = np.ascontiguousarray(unpack_words(module.integers("qweight").T, bits))
        zeros = unpack_words(module.integers("qzeros").reshape(num_groups, -1), bits)[:, :num_rows].T
        if self.config.checkpoint_format == "gptq":
            # Stored less one, modulo 2^bits: AutoGPTQ's own kernels read a stored 15 as 0, which is what its quantizer meant.
            zeros = (zeros + np.uint8(1)) & np.uint8((1 << bits) - 1)
        self._check_symmetry(module, int(zeros.min()), int(zeros.max()))
        scales = np.ascontiguousarray(module.scales("scales", (num_groups, num_rows)).T)
        columns = self._grid.extents(shape)[1]
        groups = read_groups(module, "g_idx", num_groups, columns) if module.has("g_idx") else None
        return StoredMatrix(KINDS[bits], codes, scales, 1, columns, np.ascontiguousarray(zeros), groups)

    def _check_symmetry(self, module: Module, lowest: int, highest: int) -> None:
        """Some writers store v2's zero points and claim v1: every weight would be off by one step of its scale."""
        middle = 1 << self.config.bits - 1
        if self.config.sym and (lowest, highest) != (middle, middle):
            other = "gptq_v2" if self.config.checkpoint_format == "gptq" else "gptq"
            fits = (lowest, highest) == ((middle + 1,) * 2 if other == "gptq_v2" else (middle - 1,) * 2)
            fix = f'set checkpoint_format to "{other}"' if fits else "set sym to false if that is so"
            raise QuantizationMismatch(
                f"{module.where('qzeros')} must hold zero points of {middle}, as the config says sym and "
                f"{self.config.checkpoint_format}, got {lowest} to {highest}; {fix}"
            )
