"""The tensors of one linear layer of a checkpoint, checked and read by their last name."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from optimizer.importers.errors import DamagedTensor, MissingTensor, QuantizationMismatch, ShapeMismatch
from optimizer.importers.safetensors_checkpoint import FLOATS, SafetensorsCheckpoint

#: dtypes of what was quantized when it is stored as `weight`; packed ones have names of their own
_WEIGHT_CODES = ("I8", "U8", "F8_E4M3")
_PACKED = ("qweight", "weight_packed", "blocks")
_WEIGHT = ".weight"


@dataclass(frozen=True)
class Module:
    """`<name>.<last>` of `checkpoint`."""

    checkpoint: SafetensorsCheckpoint
    name: str
    joint: Literal[".", "_"] = "."
    """`_` where the name is a tensor's own, which is no module's `weight`."""

    @classmethod
    def of(cls, checkpoint: SafetensorsCheckpoint, weight: str) -> Module:
        """That of the tensor `weight`, by the name that it has where it is not quantized."""
        name = weight.removesuffix(_WEIGHT)
        return cls(checkpoint, name, "_" if name == weight else ".")

    def full(self, last: str) -> str:
        """The name of the tensor `last` in the checkpoint."""
        return f"{self.name}{self.joint}{last}"

    def is_quantized(self) -> bool:
        """Whether its weight is stored as codes, whatever a config says."""
        return any(map(self.has, _PACKED)) or self.checkpoint.dtype(self.full("weight")) in _WEIGHT_CODES

    def has(self, last: str) -> bool:
        return self.checkpoint.shape(self.full(last)) is not None

    def where(self, last: str) -> str:
        return self.checkpoint.where(self.full(last))

    def matrix_shape(self, last: str, dtype: str, role: str) -> tuple[int, int]:
        """The shape of the codes `last`, a matrix of `dtype`. Else MissingTensor, QuantizationMismatch or ShapeMismatch."""
        shape = self._expect(last, (dtype,), role)
        if len(shape) != 2:
            raise ShapeMismatch(f"{self.where(last)} has shape {list(shape)}, but {role} are a matrix; the file is damaged")
        return shape[0], shape[1]

    def tensor_shape(self, last: str, dtype: str, role: str) -> tuple[int, ...]:
        """The shape of the codes `last`, of `dtype`, whatever it is. Else MissingTensor or QuantizationMismatch."""
        return self._expect(last, (dtype,), role)

    def expect(self, last: str, dtypes: tuple[str, ...], shape: tuple[int, ...], role: str) -> None:
        """`last` must be there, of one of `dtypes`, and of `shape`, axes of 1 apart. Raises as `matrix_shape`."""
        found = self._expect(last, dtypes, role)
        if _wide(found) != _wide(shape):
            raise ShapeMismatch(
                f"{self.where(last)} has shape {list(found)}, but {role} make it {list(shape)}; the config is another "
                "checkpoint's, or the file is damaged"
            )

    def expect_scales(self, last: str, shape: tuple[int, ...], role: str) -> None:
        self.expect(last, FLOATS, shape, role)

    def _expect(self, last: str, dtypes: tuple[str, ...], role: str) -> tuple[int, ...]:
        dtype, shape = (of(self.full(last)) for of in (self.checkpoint.dtype, self.checkpoint.shape))
        if not isinstance(shape, tuple):
            raise MissingTensor(
                f"{role} imply a tensor that is not there: {self.where(last)}; fetch the checkpoint again or correct the config"
            )
        if dtype not in dtypes:
            raise QuantizationMismatch(
                f"{self.where(last)} has type {dtype}, but {role} are {' or '.join(dtypes)}; correct the config"
            )
        return shape

    def integers(self, last: str) -> NDArray[Any]:
        """The data of an integer tensor."""
        array: NDArray[Any] = self._read(last).numpy()
        return array

    def bits(self, last: str) -> NDArray[np.uint8]:
        """The data of a tensor of one byte an element, as bit patterns."""
        array: NDArray[np.uint8] = self._read(last).view(torch.uint8).numpy()
        return array

    def scales(self, last: str, shape: tuple[int, int]) -> NDArray[np.float32]:
        """The data of scales as fp32 of `shape`. DamagedTensor if one is not finite."""
        scales: NDArray[np.float32] = self._read(last).to(torch.float32).numpy().reshape(shape)
        if not np.isfinite(scales).all():
            raise DamagedTensor(
                f"{self.where(last)} must hold finite scales, got {np.count_nonzero(~np.isfinite(scales))} that are not of "
                f"{math.prod(shape)}; fetch the checkpoint again"
            )
        return scales

    def _read(self, last: str) -> torch.Tensor:
        return self.checkpoint.read(self.full(last))


def _wide(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(extent for extent in shape if extent != 1)
