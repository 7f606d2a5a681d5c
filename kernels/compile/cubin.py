"""The machine code inside a cubin, which is an ELF file (System V ABI, chapter 4)."""

from __future__ import annotations

import struct

from kernels.compile.instructions import UnreadableCode

_HEADER = struct.Struct("<4sB35xQ10xHHH")
"""Magic, class (2 is 64 bits), offset of the section table, size and number of its entries, which of them holds the names."""
_SECTION = struct.Struct("<II16xQQ")
"""Name, type, offset, size."""


def machine_code(cubin: bytes) -> bytes:
    """The instructions of the one kernel in `cubin`; UnreadableCode if it is not a cubin of one kernel."""
    try:
        magic, bits, table, entry_size, count, names = _HEADER.unpack_from(cubin)
        if magic != b"\x7fELF" or bits != 2:
            raise UnreadableCode(f"a cubin is a 64-bit ELF file; these {len(cubin)} bytes begin with {cubin[:4]!r}")
        sections = [_SECTION.unpack_from(cubin, table + index * entry_size) for index in range(count)]
        texts = [(at, size) for name, _, at, size in sections if cubin.startswith(b".text.", sections[names][2] + name)]
    except (struct.error, IndexError) as error:
        raise UnreadableCode(f"a cubin is a whole ELF file; these {len(cubin)} bytes are not: was it cut?") from error
    if len(texts) != 1 or not texts[0][1]:
        raise UnreadableCode(
            f"a record is of one kernel, which is one section of code; this cubin has {len(texts)}; compile it alone"
        )
    at, size = texts[0]
    return cubin[at : at + size]
