"""4-bit floats of compressed-tensors: e2m1 codes, and a scale for 16 (nvfp4) or 32 (mxfp4) neighbours of a row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from artifacts.precision import MXFP4_GROUP
from kernels.scaled_matmul.packing import decode_e4m3
from optimizer.importers.errors import DamagedTensor
from optimizer.importers.prequantized.method import Grid
from optimizer.importers.prequantized.module import Module
from optimizer.importers.stored_matrix import StoredMatrix

NVFP4_GRID, MXFP4_GRID = Grid(1, 16), Grid(1, MXFP4_GROUP)
_E8M0_BIAS, _E8M0_NAN = 127, 255


@dataclass(frozen=True)
class _Float4:
    """`weight_packed` u8 [N, K / 2], k even in the low nibble."""

    def shape(self, module: Module) -> tuple[int, int]:
        num_rows, pairs = module.matrix_shape("weight_packed", "U8", "fp4 codes")
        return num_rows, pairs * 2

    def _codes(self, module: Module) -> NDArray[np.uint8]:
        octets = module.bits("weight_packed")
        return np.stack((octets & np.uint8(15), octets >> np.uint8(4)), axis=-1).reshape(len(octets), -1)


@dataclass(frozen=True)
class Nvfp4(_Float4):
    """`weight_scale` e4m3 [N, K / 16], all divided by `weight_global_scale` f32."""

    def tensors(self, module: Module) -> set[str]:
        return {"weight_packed", "weight_scale", "weight_global_scale"}

    def check(self, module: Module) -> None:
        module.expect("weight_scale", ("F8_E4M3",), NVFP4_GRID.scales_shape(self.shape(module)), "nvfp4 codes")
        module.expect_scales("weight_global_scale", (1,), "nvfp4 codes")

    def read(self, module: Module) -> StoredMatrix:
        codes = self._codes(module)
        global_scale = module.scales("weight_global_scale", (1, 1))
        local = decode_e4m3(module.bits("weight_scale")).reshape(NVFP4_GRID.scales_shape(codes.shape))
        if not np.isfinite(local).all() or global_scale.item() == 0:
            raise DamagedTensor(
                f"{module.where('weight_scale')} must be finite and its global scale not 0, got "
                f"{np.count_nonzero(~np.isfinite(local))} NaN and {global_scale.item()}; fetch the checkpoint again"
            )
        return StoredMatrix("e2m1", codes, local / global_scale, *NVFP4_GRID.extents(codes.shape))


@dataclass(frozen=True)
class Mxfp4(_Float4):
    """`weight_scale` u8 [N, K / 32]: e8m0, powers of two (OCP MX 1.0)."""

    def tensors(self, module: Module) -> set[str]:
        return {"weight_packed", "weight_scale"}

    def check(self, module: Module) -> None:
        module.expect("weight_scale", ("U8",), MXFP4_GRID.scales_shape(self.shape(module)), "mxfp4 codes")

    def read(self, module: Module) -> StoredMatrix:
        codes = self._codes(module)
        exponents = module.bits("weight_scale").reshape(MXFP4_GRID.scales_shape(codes.shape))
        if (exponents == _E8M0_NAN).any():
            raise DamagedTensor(f"{module.where('weight_scale')} must be finite, got a NaN (255); fetch the checkpoint again")
        scales = np.ldexp(np.float32(1), exponents.astype(np.int32) - _E8M0_BIAS)
        return StoredMatrix("e2m1", codes, scales, *MXFP4_GRID.extents(codes.shape))
