"""nvfp4 of compressed-tensors: e2m1 codes, an e4m3 scale for every 16 of a row, all divided by one global scale."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kernels.scaled_matmul.packing import decode_e4m3
from optimizer.importers.errors import DamagedTensor
from optimizer.importers.prequantized.method import Grid
from optimizer.importers.prequantized.module import Module
from optimizer.importers.stored_matrix import StoredMatrix

_GRID = Grid(1, 16)


@dataclass(frozen=True)
class Nvfp4:
    """`weight_packed` u8 [N, K / 2], k even in the low nibble; `weight_scale` e4m3 [N, K / 16]; `weight_global_scale` f32."""

    def shape(self, module: Module) -> tuple[int, int]:
        num_rows, pairs = module.matrix_shape("weight_packed", "U8", "nvfp4 codes")
        return num_rows, pairs * 2

    def tensors(self, module: Module) -> set[str]:
        return {"weight_packed", "weight_scale", "weight_global_scale"}

    def check(self, module: Module) -> None:
        module.expect("weight_scale", ("F8_E4M3",), _GRID.scales_shape(self.shape(module)), "nvfp4 codes")
        module.expect_scales("weight_global_scale", (1,), "nvfp4 codes")

    def read(self, module: Module) -> StoredMatrix:
        octets, shape = module.bits("weight_packed"), self.shape(module)
        codes = np.stack((octets & np.uint8(15), octets >> np.uint8(4)), axis=-1).reshape(shape)
        global_scale = module.scales("weight_global_scale", (1, 1))
        local = decode_e4m3(module.bits("weight_scale")).reshape(_GRID.scales_shape(shape))
        if not np.isfinite(local).all() or global_scale.item() == 0:
            raise DamagedTensor(
                f"{module.where('weight_scale')} must be finite and its global scale not 0, got "
                f"{np.count_nonzero(~np.isfinite(local))} NaN and {global_scale.item()}; fetch the checkpoint again"
            )
        return StoredMatrix("e2m1", codes, local / global_scale, *_GRID.extents(shape))
