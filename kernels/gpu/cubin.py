"""What a cubin says of itself: the GPUs and the driver that it needs, and the parameters of its kernels.

Read from the ELF file with the standard library. Layout and numbers are those of docs/kernel-abi.md and, found in the same way,
the toolkit's version (129 is CUDA 12.9) and CUDA 13's mark of an architecture-locked cubin; seen in cubins of ptxas 12.8, 12.9,
13.0, 13.1, 13.3 and 13.4. NVIDIA does not document them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from kernels.gpu.refusals import ImageMalformed

_INFO = ".nv.info."
_COMPAT = ".nv.compat"
# Attributes of .nv.info.<kernel> and of .nv.compat: records of u8 format, u8 attribute, u16 value.
_WITH_PAYLOAD = 4
_REQUIRED_THREADS = 0x10
_PARAMETER = 0x17
_TOOLKIT = 0x37
_ACCELERATOR_TARGET = 0x09


class Parameter(NamedTuple):
    """Where a kernel's parameter lies in its parameter space, in bytes."""

    offset: int
    size: int


@dataclass(frozen=True)
class Entry:
    """A kernel in a cubin: its parameters in order, the threads of a block, and the CUDA toolkit that assembled it."""

    parameters: tuple[Parameter, ...]
    num_threads: int
    toolkit: tuple[int, int]


@dataclass(frozen=True)
class Cubin:
    """`capability` is that of the GPU it was compiled for, `locked` whether it runs on no other (sm_90a)."""

    abi: int
    capability: tuple[int, int]
    locked: bool
    entries: Mapping[str, Entry]

    @classmethod
    def parse(cls, image: bytes) -> Cubin:
        """Of a cubin's bytes; ImageMalformed for anything else, and for an ELF ABI that this code does not know."""
        try:
            return _parse(image)
        except (struct.error, LookupError, OverflowError, ValueError) as error:
            if isinstance(error, ImageMalformed):
                raise
            raise ImageMalformed(f"an image must be a whole cubin; reading this one: {error}") from error

    def runs_on(self, capability: tuple[int, int]) -> bool:
        """CUDA's rule of binary compatibility: this capability or, unless locked, a later one of the same major version."""
        return capability == self.capability or (
            not self.locked and capability[0] == self.capability[0] and capability[1] > self.capability[1]
        )


def _parse(image: bytes) -> Cubin:
    if image[:7] != b"\x7fELF\x02\x01\x01":
        raise ImageMalformed("an image must be a little-endian 64-bit ELF file; this one is not")
    os_abi, abi = image[7], image[8]
    (flags,) = struct.unpack_from("<I", image, 0x30)
    sections = dict(_sections(image))
    compat = {attribute: value for attribute, value, _ in _records(sections.get(_COMPAT, b""))}
    if (os_abi, abi) == (0x33, 7):
        number, locked = flags & 0xFF, bool(flags & 0x800)
    elif (os_abi, abi) == (0x41, 8):
        # CUDA 12 marks the flags, CUDA 13 a section.
        number, locked = flags >> 8 & 0xFF, bool(flags & 0x8) or compat.get(_ACCELERATOR_TARGET) == 1
    else:
        raise ImageMalformed(
            f"this code knows cubins of ELF ABI 0x33/7 and 0x41/8, got {os_abi:#x}/{abi}; compile with an older ptxas"
        )
    entries = {name.removeprefix(_INFO): _entry(data) for name, data in sections.items() if name.startswith(_INFO)}
    return Cubin(abi, divmod(number, 10), locked, entries)


def _sections(image: bytes) -> Iterator[tuple[str, bytes]]:
    (table,) = struct.unpack_from("<Q", image, 0x28)
    entry_size, count, names_index = struct.unpack_from("<HHH", image, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", image, table + index * entry_size) for index in range(count)]
    names = headers[names_index][4]
    for name, kind, _, _, offset, size in headers:
        start = names + name
        # 8: a section without bytes in the file
        yield image[start : image.index(b"\0", start)].decode(), b"" if kind == 8 else image[offset : offset + size]


def _records(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    position = 0
    while position < len(data):
        form, attribute, value = struct.unpack_from("<BBH", data, position)
        length = value if form == _WITH_PAYLOAD else 0
        position += 4 + length
        yield attribute, value, data[position - length : position]


def _entry(data: bytes) -> Entry:
    parameters: dict[int, Parameter] = {}
    num_threads, toolkit = 0, (0, 0)
    for attribute, _, payload in _records(data):
        if attribute == _PARAMETER:
            _, ordinal, offset, rest = struct.unpack("<IHHI", payload)
            parameters[ordinal] = Parameter(offset, rest >> 18)
        elif attribute == _REQUIRED_THREADS:
            x, y, z = struct.unpack("<III", payload)
            num_threads = x * y * z
        elif attribute == _TOOLKIT:
            (version,) = struct.unpack("<I", payload)
            toolkit = divmod(version, 10)
    return Entry(tuple(parameters[ordinal] for ordinal in range(len(parameters))), num_threads, toolkit)
