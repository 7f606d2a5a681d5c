"""A bundle's tensors against what its architecture and precision plan imply."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

from artifacts.architecture import Architecture
from artifacts.errors import WeightsError
from artifacts.precision import Plan, Scheme
from artifacts.weights import Array
from kernels.spec import DTYPES, Tensor, axis_extent

#: the tensors of a layer group in a scheme, over the axes N, K, `tiles` of 16 rows and `groups` of columns that share a scale
StoredParts: TypeAlias = Callable[[Scheme], Iterable[Tensor]]

_REBUILD = "build the bundle again"


def tensor_shapes(architecture: Architecture, plan: Plan, stored_parts: StoredParts) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name -> (numpy dtype, shape) of every tensor of a model: gains, biases, and each layer group's parts on a target."""
    tensors = {name: ("float32", shape) for name, shape in architecture.float_shapes().items()}
    for group, (n, k) in architecture.linear_shapes().items():
        sizes = {"N": n, "K": k, "tiles": -(-n // 16), "groups": k // (plan[group].group_size or k)}
        for part in stored_parts(plan[group]):
            tensors[f"{group}.{part.name}"] = DTYPES[part.dtype][0], tuple(axis_extent(axis, sizes) for axis in part.axes)
    return tensors


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
