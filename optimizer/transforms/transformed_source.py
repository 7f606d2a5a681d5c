"""A model whose tensors are changed as they are read, and whose function stays as it is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Protocol

from torch import Tensor

from artifacts.architecture import Architecture
from artifacts.errors import UserError
from artifacts.precision import Scheme
from optimizer.importers import Source


class UntransformableModelError(UserError):
    """A model, or a part of one, through which a transform cannot be folded."""


class Transform(Protocol):
    """A change of a model's tensors that leaves its function as it is, to the rounding of fp32."""

    def architecture(self, before: Architecture) -> Architecture:
        """What the model is afterwards. Raises ValueError where the transform does not fit a model of `before`."""
        ...

    def tensor(self, name: str, source: Source) -> Tensor:
        """The canonical tensor `name` of the changed `source`, fp32. Reads from `source` what it needs for this one tensor."""
        ...

    def record(self) -> dict[str, object]:
        """What was done, as plain data for a bundle's provenance."""
        ...


@dataclass(frozen=True)
class TransformedSource(Source):
    """`base` under `transform`. Nothing is kept: a tensor is read and changed whenever it is asked for."""

    base: Source
    transform: Transform

    def __post_init__(self) -> None:
        """`base` has checked its checkpoint."""

    def tensor(self, name: str) -> Tensor:
        """The canonical tensor `name`, fp32. KeyError on an unknown name."""
        return self.transform.tensor(name, self.base)

    def stored(self, group: str, scheme: Scheme) -> None:
        """Nothing: what the checkpoint stores is of the model before its transforms."""

    def keeping(self, group: str, schemes: Iterable[Scheme]) -> list[Scheme]:
        return []

    def transforms(self) -> list[dict[str, object]]:
        return [*self.base.transforms(), self.transform.record()]


def transformed(source: Source, transform: Transform) -> TransformedSource:
    """`source` under `transform`; may be transformed again.

    Raises UntransformableModelError for what `refuse_what_cannot_fold` names, and ValueError where the transform was made for
    another model.
    """
    before = source.architecture
    refuse_what_cannot_fold(before)
    inherited = {field.name: getattr(source, field.name) for field in fields(Source)}
    inherited["architecture"] = transform.architecture(before)
    return TransformedSource(**inherited, base=source, transform=transform)


def refuse_what_cannot_fold(architecture: Architecture) -> None:
    """UntransformableModelError unless the model has norms to fold into, and layers that are alike."""
    found = {
        "no norms before its branches": not architecture.pre_norms,
        "layers of several sizes, with inputs beside the stream or shared caches": architecture.layers_differ,
    }
    for what, is_there in found.items():
        if is_there:
            raise UntransformableModelError(
                f"scales and rotations fold into the norms of decoders whose layers are alike; this "
                f"{architecture.family} model has {what}: quantize it without transforms"
            )
