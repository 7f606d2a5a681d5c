"""Register tiles of the matrix product: ROWS of x by VECTORS row tiles of W, and DECODE_VECTORS for a single row of x.

From TILED_ROWS rows of x on, int8 activations go through matrix tiles where the instruction set has them; PANEL_KIB KiB of
W are then in work at once, and from SHARED_ROWS on threads share out rows and not W, unless it is packed. Elsewhere these have
one value.
"""

from __future__ import annotations

from kernels.cpu.isa import Isa
from kernels.tuning import Constants, Tuning

_OF_TILES = {"QUANT_MATMUL_TILED_ROWS": 4, "QUANT_MATMUL_PANEL_KIB": 1024, "QUANT_MATMUL_SHARED_ROWS": 256}


def _refusal(constants: Constants, isa: Isa) -> str | None:
    if not isa.has_tiles and any(constants[name] != value for name, value in _OF_TILES.items()):
        return f"{isa.name} has no matrix tiles: {' and '.join(f'{name} {value}' for name, value in _OF_TILES.items())} stand"
    rows, vectors = constants["QUANT_MATMUL_ROWS"], constants["QUANT_MATMUL_VECTORS"]
    needed = (rows * vectors + vectors) * isa.registers_per_vector + 1
    if needed > isa.num_registers:
        return f"a tile of {rows} x {vectors} vectors needs {needed} registers of {isa.num_registers}"
    return None


def _default(isa: Isa) -> Constants:
    rows, vectors, decode = {1: (8, 3, 8), 2: (4, 1, 4), 4: (2, 1, 2)}[isa.registers_per_vector]
    return {
        "QUANT_MATMUL_ROWS": rows,
        "QUANT_MATMUL_VECTORS": vectors,
        "QUANT_MATMUL_DECODE_VECTORS": decode,
        **_OF_TILES,
    }


TUNING = Tuning(
    values={
        "QUANT_MATMUL_ROWS": (1, 2, 4, 6, 8, 12),
        "QUANT_MATMUL_VECTORS": (1, 2, 3, 4),
        "QUANT_MATMUL_DECODE_VECTORS": (1, 2, 4, 8),
        "QUANT_MATMUL_TILED_ROWS": (2, 4, 8, 16),
        "QUANT_MATMUL_PANEL_KIB": (64, 256, 512, 1024, 2048),
        "QUANT_MATMUL_SHARED_ROWS": (16, 64, 128, 256, 512, 65536),
    },
    refusal=_refusal,
    default=_default,
    of_one_token=frozenset({"QUANT_MATMUL_DECODE_VECTORS"}),
)
