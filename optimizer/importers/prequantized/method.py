"""How a checkpoint was quantized: what its config says, and how one of its matrices is stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from optimizer.formats.stored_matrix import StoredMatrix
from optimizer.importers.errors import UnsupportedQuantization
from optimizer.importers.prequantized.module import Module


class Format(Protocol):
    """The layout of one quantized matrix."""

    def shape(self, module: Module) -> tuple[int, ...]:
        """(N, K) by the codes' header, or (experts, K, N) where a tensor is of all experts.

        Raises SourceError if the codes are not there, or not of this layout.
        """
        ...

    def tensors(self, module: Module) -> set[str]:
        """The last names of the tensors that make it up."""
        ...

    def check(self, module: Module) -> None:
        """Raises SourceError if a tensor is missing or of the wrong type or shape, by the headers."""
        ...

    def read(self, module: Module) -> StoredMatrix:
        """The matrix. Raises DamagedTensor or QuantizationMismatch for values that it cannot have."""
        ...


class QuantizationConfig(Protocol):
    """A checkpoint's quantization, as its config describes it."""

    @property
    def names_every_module(self) -> bool:
        """Whether a matrix that `format` knows of must be quantized. Most methods say only what may not be."""
        ...

    @property
    def has_static_kv_scales(self) -> bool: ...

    @property
    def ignored(self) -> tuple[str, ...]:
        """Keys of the config that say how activations or the KV cache are quantized, which is each plan's to say here."""
        ...

    def format(self, module: str, *, is_embedding: bool) -> Format | None:
        """How the matrix of `module` is stored, None if it is not quantized."""
        ...


@dataclass(frozen=True)
class Grid:
    """The part of a matrix that shares a scale: `rows` x `columns`, None for all of them."""

    rows: int | None
    columns: int | None

    def extents(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of a part in a matrix of `shape`."""
        return self.rows or shape[0], self.columns or shape[1]

    def scales_shape(self, shape: tuple[int, int]) -> tuple[int, int]:
        """The shape of the scales, last parts cut."""
        rows, columns = self.extents(shape)
        return -(-shape[0] // rows), -(-shape[1] // columns)


PER_TENSOR, PER_CHANNEL = Grid(None, None), Grid(1, None)


class ConfigModel(BaseModel):
    """A quantization config's keys that change values; others (how it was calibrated) are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


_Config = TypeVar("_Config", bound=ConfigModel)


def parse(model: type[_Config], config: dict[str, object], where: str) -> _Config:
    """`config`, found at `where`, as `model`; UnsupportedQuantization names the key, the rule and the value."""
    try:
        return model.model_validate(config)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'it'}: {e['msg'][:1].lower()}{e['msg'][1:]}, got {e['input']!r}"
            for e in error.errors()
        )
        raise UnsupportedQuantization(f"{where} cannot be used: {problems}; {START_FROM_FLOAT}") from None


START_FROM_FLOAT = "quantize the model in another way, or start from the unquantized checkpoint"


def names_part(listed: str, module: str) -> bool:
    """Whether `listed` is one of the components of `module`'s dotted name, or several neighbouring ones."""
    return f".{listed}." in f".{module}."
