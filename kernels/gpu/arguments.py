"""The arguments of a launch as the bytes that the kernel's parameters expect, by the rules of docs/kernel-abi.md."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from kernels.gpu.binary import BinaryMetadata, TensorMapMetadata
from kernels.gpu.launch import ALIGNMENT, DTYPES, F32, I32, I64, Descriptor, Launch, Ptr, RuntimeArgument, TensorMeta
from kernels.gpu.refusals import ArgumentMismatch, DescriptorRefused, MisalignedPointer
from kernels.gpu.tensor_map import TENSOR_MAP_BYTES, TensorMap, check, tensor_map

_TENSOR_MAP = "tensormap"
_BYTES = {"i1": 1, "i32": 4, "i64": 8, "fp32": 4, _TENSOR_MAP: TENSOR_MAP_BYTES}
_SCALARS: Mapping[type[RuntimeArgument], tuple[str, str]] = {I32: ("i32", "<i"), I64: ("i64", "<q"), F32: ("fp32", "<f")}
_DESCRIPTOR = re.compile(r"tensordesc<(\w+)\[([\d, ]+)\]>")
# Before 3.7 Triton had no flag for rounding to tf32.
_TWO_FLAGS_SINCE = (3, 7)


@dataclass(frozen=True)
class Memory:
    """A tensor on the device."""

    address: int
    meta: TensorMeta


def parameter_bytes(metadata: BinaryMetadata) -> tuple[int, ...]:
    """Size of every parameter of the kernel, the two scratch pointers included. ArgumentMismatch for an unknown type."""
    return tuple(8 if kind.startswith("*") else _BYTES[kind] for kind in _expanded(metadata))


def _expanded(metadata: BinaryMetadata) -> Iterator[str]:
    for name, kind in metadata.parameters:
        if kind.startswith("*") or kind in ("i32", "i64", "fp32"):
            yield kind
        elif described := _DESCRIPTOR.fullmatch(kind):
            rank = described[2].count(",") + 1
            yield from (
                [_TENSOR_MAP] if metadata.tensordesc else [f"*{described[1]}", *["i64"] * 2 * rank, *["i1"] * _flags(metadata)]
            )
            yield from ["i32"] * rank + ["i64"] * rank
        else:
            raise ArgumentMismatch(
                f"a parameter is a pointer, i32, i64, fp32 or a descriptor; {name} of {metadata.entry} is {kind}"
            )
    yield from ("*u8", "*u8")


def _flags(metadata: BinaryMetadata) -> int:
    major, minor = metadata.triton.split(".")[:2]
    return 2 if (int(major), int(minor)) >= _TWO_FLAGS_SINCE else 1


def pack(
    metadata: BinaryMetadata,
    launch: Launch,
    memory: Mapping[str, Memory],
    encode: Callable[[TensorMap], bytes],
    scratch_address: int = 0,
) -> tuple[bytes, ...]:
    """The value of every parameter of the kernel, in order.

    `memory` has every tensor that the launch names; `encode` has the driver make a tensor map.
    ArgumentMismatch, MisalignedPointer or DescriptorRefused for what the kernel would misread.
    """
    where = f"{launch.op}.{launch.function}"
    wanted, given = {name for name, _ in metadata.parameters}, set(launch.arguments)
    if wanted != given:
        raise ArgumentMismatch(
            f"{where} takes {', '.join(sorted(wanted))}; "
            f"the launch lacks {sorted(wanted - given)} and gives {sorted(given - wanted)} more"
        )
    tensor_maps = iter(metadata.tensordesc)
    values: list[bytes] = []
    for name, kind in metadata.parameters:
        argument = launch.arguments[name]
        place = f"{name} of {where}"
        if isinstance(argument, Ptr):
            values.append(_pointer(place, kind, memory[argument.tensor]))
        elif isinstance(argument, Descriptor):
            of = memory[argument.tensor]
            _require(place, kind, f"tensordesc<{DTYPES[of.meta.dtype][1]}[{', '.join(map(str, argument.block_shape))}]>")
            values += _descriptor(place, argument, of, metadata, encode, next(tensor_maps, None))
        else:
            values.append(_scalar(place, kind, argument))
    return (*values, _address(scratch_address), _address(0))


def _require(place: str, kind: str, got: str) -> None:
    if kind != got:
        raise ArgumentMismatch(f"{place} was compiled as {kind}, and the launch gives {got}; compile for these types")


def _pointer(place: str, kind: str, of: Memory) -> bytes:
    _require(place, kind, f"*{DTYPES[of.meta.dtype][1]}")
    if of.address % ALIGNMENT:
        raise MisalignedPointer(
            f"{place} must be a multiple of {ALIGNMENT} bytes, as the kernel relies on it; got {of.address:#x}"
        )
    return _address(of.address)


def _scalar(place: str, kind: str, argument: I32 | I64 | F32) -> bytes:
    got, form = _SCALARS[type(argument)]
    _require(place, kind, got)
    try:
        return struct.pack(form, argument.value)
    except (struct.error, OverflowError) as error:
        raise ArgumentMismatch(f"{place} must be a value of {got}, got {argument.value!r}") from error


def _descriptor(
    place: str,
    descriptor: Descriptor,
    of: Memory,
    metadata: BinaryMetadata,
    encode: Callable[[TensorMap], bytes],
    how: TensorMapMetadata | None,
) -> list[bytes]:
    dims = [struct.pack("<q", value) for value in (*descriptor.shape, *descriptor.strides)]
    if how is not None:
        head = [encode(tensor_map(descriptor, of.meta, of.address, how))]
    elif metadata.tensordesc:
        raise DescriptorRefused(
            f"{place}: the metadata of {metadata.entry} describes {len(metadata.tensordesc)} descriptors only"
        )
    else:
        check(descriptor, of.meta)
        if of.address % ALIGNMENT:
            raise MisalignedPointer(f"{place} must be a multiple of {ALIGNMENT} bytes; got {of.address:#x}")
        head = [_address(of.address), *dims, *[b"\0"] * _flags(metadata)]
    try:
        shape = [struct.pack("<i", extent) for extent in descriptor.shape]
    except struct.error as error:
        raise DescriptorRefused(f"{place}: extents of a descriptor fit in 32 bits, got {descriptor.shape}") from error
    return head + shape + dims[len(shape) :]


def _address(address: int) -> bytes:
    return struct.pack("<Q", address)
