"""4-bit floats: e2m1 codes, and a scale for 16 (nvfp4) or 32 (mxfp4) neighbours of a row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from artifacts.weight_formats import MXFP4_GROUP, NVFP4_GROUP
from kernels.scaled_matmul.packing import decode_e4m3, split_nibbles
from optimizer.formats.stored_matrix import StoredMatrix
from optimizer.importers.errors import DamagedTensor
from optimizer.importers.prequantized.method import Grid
from optimizer.importers.prequantized.module import Module

NVFP4_GRID, MXFP4_GRID = Grid(1, NVFP4_GROUP), Grid(1, MXFP4_GROUP)
_E8M0_BIAS, _E8M0_NAN = 127, 255


@dataclass(frozen=True)
class _Float4:
    """`weight_packed` u8 [N, K / 2], k even in the low nibble."""

    packed: ClassVar[str] = "weight_packed"

    def shape(self, module: Module) -> tuple[int, int]:
        num_rows, pairs = module.matrix_shape(self.packed, "U8", "fp4 codes")
        return num_rows, pairs * 2

    def _codes(self, module: Module) -> NDArray[np.uint8]:
        return split_nibbles(module.bits(self.packed))


@dataclass(frozen=True)
class Nvfp4(_Float4):
    """compressed-tensors': `weight_scale` e4m3 [N, K / 16], all divided by `weight_global_scale` f32.

    The divisor's reciprocal, rounded once, is what values are multiplied by, as engines do that load it.
    """

    global_scale: ClassVar[str] = "weight_global_scale"

    def tensors(self, module: Module) -> set[str]:
        return {self.packed, "weight_scale", self.global_scale}

    def check(self, module: Module) -> None:
        module.expect("weight_scale", ("F8_E4M3",), NVFP4_GRID.scales_shape(self.shape(module)), "nvfp4 codes")
        module.expect_scales(self.global_scale, (1,), "nvfp4 codes")

    def read(self, module: Module) -> StoredMatrix:
        codes = self._codes(module)
        global_scale = module.scales(self.global_scale, (1, 1))[0, 0]
        local = decode_e4m3(module.bits("weight_scale")).reshape(NVFP4_GRID.scales_shape(codes.shape))
        if not np.isfinite(local).all() or global_scale == 0:
            raise DamagedTensor(
                f"{module.where('weight_scale')} must be finite and its global scale not 0, got "
                f"{np.count_nonzero(~np.isfinite(local))} NaN and {global_scale}; fetch the checkpoint again"
            )
        tensor_scale = self._tensor_scale(global_scale)
        return StoredMatrix("e2m1", codes, local, *NVFP4_GRID.extents(codes.shape), tensor_scale=tensor_scale)

    def _tensor_scale(self, global_scale: np.float32) -> np.float32:
        return np.float32(1) / global_scale


@dataclass(frozen=True)
class ModelOptNvfp4(Nvfp4):
    """ModelOpt's: codes are `weight`, and `weight_scale_2` f32 multiplies."""

    packed: ClassVar[str] = "weight"
    global_scale: ClassVar[str] = "weight_scale_2"

    def _tensor_scale(self, global_scale: np.float32) -> np.float32:
        return global_scale


@dataclass(frozen=True)
class Mxfp4(_Float4):
    """`weight_scale` u8 [N, K / 32]: e8m0, powers of two (OCP MX 1.0)."""

    def tensors(self, module: Module) -> set[str]:
        return {"weight_packed", "weight_scale"}

    def check(self, module: Module) -> None:
        module.expect("weight_scale", ("U8",), MXFP4_GRID.scales_shape(self.shape(module)), "mxfp4 codes")

    def read(self, module: Module) -> StoredMatrix:
        codes = self._codes(module)
        return StoredMatrix("e2m1", codes, read_e8m0(module, "weight_scale", codes.shape), *MXFP4_GRID.extents(codes.shape))


def read_e8m0(module: Module, last: str, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Scales of mxfp4 for codes of `shape`: powers of two. DamagedTensor if one is not a number."""
    exponents = module.bits(last).reshape(MXFP4_GRID.scales_shape(shape))
    if (exponents == _E8M0_NAN).any():
        raise DamagedTensor(f"{module.where(last)} must be finite, got a NaN (255); fetch the checkpoint again")
    return np.ldexp(np.float32(1), exponents.astype(np.int32) - _E8M0_BIAS)
