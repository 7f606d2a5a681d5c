"""The C side of a spec: the struct an entry point takes, and the binding of numpy arrays to it.

Fields, 8 bytes each: for each tensor in order a pointer, followed by `<name>_stride` (elements between rows) if its rows
may be strided; the scalars; each constant axis by name, in order of appearance; a pointer to each variable axis's count; and
pointers of what was added to an entry point, likewise.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kernels.spec import DTYPES, Argument, Array, OpSpec, Tensor, axis_extent, axis_name

#: Raised whenever a library built before could misread what is bound now.
ABI_VERSION = 3


def header(specs: Iterable[OpSpec]) -> str:
    """The C++ header that declares the entry points of `specs` and their structs."""
    lines = ["#pragma once", "#include <cstdint>", "", "namespace cf {", "class Work;", "}", ""]
    for spec in specs:
        lines.append(f"struct {spec.symbol}_args {{")
        lines += _declared(spec, is_added=False)
        for scalar in spec.scalars:
            lines.append(f"    {'double' if scalar.kind == 'f64' else 'int64_t'} {scalar.name};")
        lines += [f"    int64_t {name};" for name in spec.constant]
        lines += [f"    const int64_t* {name};" for name in spec.variable]
        lines += _declared(spec, is_added=True)
        lines += [
            "};",
            'extern "C" __attribute__((visibility("default")))',
            f"void {spec.symbol}(const {spec.symbol}_args* a, cf::Work* work);",
            "",
        ]
    return "\n".join(lines)


def _declared(spec: OpSpec, *, is_added: bool) -> Iterator[str]:
    for tensor in spec.tensors:
        if tensor.is_added == is_added:
            const = "const " if tensor.role == "in" else ""
            yield f"    {const}{DTYPES[tensor.dtype][1]}* {tensor.name};"
            if spec.strided(tensor):
                yield f"    int64_t {tensor.name}_stride;"


@dataclass(frozen=True)
class Bound:
    """A filled argument struct, with what keeps its pointers valid. `extents` are the most each variable axis may be."""

    struct: NDArray[np.int64]
    extents: Mapping[str, int]
    alive: tuple[object, ...]


def bind(spec: OpSpec, arguments: Mapping[str, Argument], counts: Mapping[str, NDArray[np.int64]]) -> Bound:
    """The struct of `spec` for these arguments.

    `counts` has a one-element array for each variable axis, read whenever the call runs. ValueError if an argument is
    missing, unknown, or not of the dtype, shape or memory layout that the spec states.
    """
    known = {*(tensor.name for tensor in spec.tensors), *(scalar.name for scalar in spec.scalars)}
    if unknown := sorted(arguments.keys() - known):
        raise ValueError(f"{spec.symbol} takes no {', '.join(unknown)}; it takes {', '.join(sorted(known))}")
    if missing := [name for name in spec.variable if name not in counts]:
        raise ValueError(f"{spec.symbol} needs a counter for each variable axis; none for {', '.join(missing)}")
    sizes = spec.sizes(arguments)
    fields = _pointers(spec, arguments, sizes, is_added=False)
    for scalar in spec.scalars:
        value = arguments.get(scalar.name)
        if isinstance(value, bool) or not isinstance(value, int if scalar.kind == "i64" else (int, float)):
            raise ValueError(f"{spec.symbol}: {scalar.name} must be a number of kind {scalar.kind}, got {value!r}")
        fields.append(int(np.array(value, np.float64).view(np.int64)) if scalar.kind == "f64" else int(value))
    fields += [sizes[name] for name in spec.constant]
    fields += [counts[name].ctypes.data for name in spec.variable]
    fields += _pointers(spec, arguments, sizes, is_added=True)
    return Bound(
        np.array(fields, np.int64),
        {name: sizes[name] for name in spec.variable},
        (dict(arguments), dict(counts)),
    )


def _pointers(spec: OpSpec, arguments: Mapping[str, Argument], sizes: Mapping[str, int], *, is_added: bool) -> list[int]:
    fields: list[int] = []
    for tensor in spec.tensors:
        if tensor.is_added != is_added:
            continue
        array = _checked(spec, tensor, arguments.get(tensor.name), sizes)
        fields.append(0 if array is None else array.ctypes.data)
        if spec.strided(tensor):
            fields.append(0 if array is None else array.strides[0] // array.itemsize)
    return fields


def _checked(spec: OpSpec, tensor: Tensor, value: Argument, sizes: Mapping[str, int]) -> Array | None:
    where = f"{spec.symbol}: {tensor.name}"
    if value is None and tensor.optional:
        return None
    if not isinstance(value, np.ndarray):
        raise ValueError(f"{where} must be a numpy array, got {type(value).__name__}")
    dtype = DTYPES[tensor.dtype][0]
    if value.dtype != dtype:
        raise ValueError(f"{where} must be {tensor.dtype} (numpy {dtype}), got {value.dtype}")
    wanted = tuple(axis_extent(axis, sizes) for axis in tensor.axes) if value.ndim == len(tensor.axes) else None
    if wanted is None or not _fits(spec, tensor, value.shape, wanted):
        axes = ", ".join(map(str, tensor.axes))
        raise ValueError(f"{where} must have shape [{axes}] with {dict(sizes)}, got {list(value.shape)}")
    if tensor.role != "in" and not value.flags.writeable:
        raise ValueError(f"{where} is written but its array is read-only; pass a writable one")
    rows = value[0] if spec.strided(tensor) and value.size else value
    if not rows.flags.c_contiguous or (value.size and value.strides[0] % value.itemsize):
        raise ValueError(f"{where} must be contiguous{' within a row' if spec.strided(tensor) else ''}; copy it first")
    return value


def _fits(spec: OpSpec, tensor: Tensor, shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return all(
        have >= want if axis_name(axis) in spec.variable else have == want
        for axis, have, want in zip(tensor.axes, shape, wanted, strict=True)
    )
