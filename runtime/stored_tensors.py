"""A bundle's tensors against what its architecture and precision plan imply."""

from __future__ import annotations

from collections.abc import Mapping

from artifacts.errors import WeightsError
from artifacts.weights import Array

_REBUILD = "build the bundle again"


def check_tensors(tensors: Mapping[str, Array], expected: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
    """WeightsError where a bundle's tensors are not exactly those that its architecture and precision plan imply."""
    for name, (dtype, shape) in expected.items():
        if name not in tensors:
            raise WeightsError(
                f"the architecture and the precision plan need a tensor {name!r}, which the bundle lacks; {_REBUILD}"
            )
        found = tensors[name]
        if found.dtype != dtype or found.shape != shape:
            raise WeightsError(
                f"tensor {name!r} must be {dtype} {list(shape)} by the architecture and the precision plan, "
                f"got {found.dtype} {list(found.shape)}; {_REBUILD}"
            )
    if others := sorted(tensors.keys() - expected.keys()):
        raise WeightsError(f"the architecture and the precision plan have no place for the tensor {others[0]!r}; {_REBUILD}")
