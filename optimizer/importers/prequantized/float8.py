"""fp8 matrices: e4m3 codes, scales of a tensor, of its rows, or of its blocks, and maybe one of activations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optimizer.formats.stored_matrix import StoredMatrix
from optimizer.importers.errors import DamagedTensor
from optimizer.importers.prequantized.method import PER_CHANNEL, PER_TENSOR, Grid
from optimizer.importers.prequantized.module import Module

_SCALES = ("weight_scale", "weight_scale_inv")
_INPUT_SCALE = "input_scale"


@dataclass(frozen=True)
class Float8:
    """`weight` e4m3 [N, K]; `weight_scale`, or `weight_scale_inv` of the same meaning: the values are codes times scales.

    `grid` None is for configs that do not tell a scale of the tensor from one of each row: the scales' number does.
    """

    grid: Grid | None

    def shape(self, module: Module) -> tuple[int, int]:
        return module.matrix_shape("weight", "F8_E4M3", "fp8 codes")

    def tensors(self, module: Module) -> set[str]:
        return {"weight", self._scale(module)}

    def check(self, module: Module) -> None:
        shape = self.shape(module)
        module.expect_scales(
            self._scale(module), self._grid(module).scales_shape(shape), "the fp8 weight's granularity and shape"
        )

    def read(self, module: Module) -> StoredMatrix:
        shape, grid = self.shape(module), self._grid(module)
        codes = module.bits("weight")
        num_bad = np.count_nonzero((codes & np.uint8(0x7F)) == 0x7F)
        if num_bad:
            raise DamagedTensor(f"{module.where('weight')} must be finite, got {num_bad} NaN; fetch the checkpoint again")
        scales = module.scales(self._scale(module), grid.scales_shape(shape))
        return StoredMatrix("e4m3", codes, scales, *grid.extents(shape), input_scale=self._input_scale(module))

    def _input_scale(self, module: Module) -> np.float32 | None:
        shape = module.checkpoint.shape(f"{module.name}.{_INPUT_SCALE}")
        if shape is None or any(extent != 1 for extent in shape):
            return None
        scale = np.float32(module.scales(_INPUT_SCALE, (1, 1))[0, 0])
        if scale <= 0:
            raise DamagedTensor(f"{module.where(_INPUT_SCALE)} must be positive, got {scale}; fetch the checkpoint again")
        return scale

    def _scale(self, module: Module) -> str:
        return next(filter(module.has, _SCALES), _SCALES[0])

    def _grid(self, module: Module) -> Grid:
        if self.grid is not None:
            return self.grid
        scales = module.checkpoint.shape(f"{module.name}.{self._scale(module)}") or ()
        return PER_TENSOR if all(extent == 1 for extent in scales) else PER_CHANNEL
