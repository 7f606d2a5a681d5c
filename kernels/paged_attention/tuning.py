"""Register tiles of attention: ROWS of q by VECTORS of 16 positions (scores) or dimensions (values).

QUERIES is the query tokens of an item of work. ROWS and VECTORS do not matter to a bf16 cache where the instruction set has
matrix tiles, which do its products.

The KV block size is no constant of the build: kernels read it from the cache's shape, and any multiple of 16 works.
"""

from __future__ import annotations

from kernels.cpu.isa import Isa
from kernels.tuning import Constants, Tuning


def _refusal(constants: Constants, isa: Isa) -> str | None:
    rows, vectors = constants["PAGED_ATTENTION_ROWS"], constants["PAGED_ATTENTION_VECTORS"]
    needed = (rows * vectors + vectors) * isa.registers_per_vector + 1
    if needed > isa.num_registers:
        return f"a tile of {rows} x {vectors} vectors needs {needed} registers of {isa.num_registers}"
    return None


def _default(isa: Isa) -> Constants:
    rows, vectors = {1: (6, 4), 2: (3, 1), 4: (2, 1)}[isa.registers_per_vector]
    return {"PAGED_ATTENTION_ROWS": rows, "PAGED_ATTENTION_VECTORS": vectors, "PAGED_ATTENTION_QUERIES": 16}


TUNING = Tuning(
    values={
        "PAGED_ATTENTION_ROWS": (1, 2, 3, 4, 6, 8),
        "PAGED_ATTENTION_VECTORS": (1, 2, 4),
        "PAGED_ATTENTION_QUERIES": (4, 8, 16, 32),
    },
    refusal=_refusal,
    default=_default,
)
