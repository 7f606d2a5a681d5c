"""The kernels with matrix tiles emulated: loops over arrays, on whatever machine this is."""

from __future__ import annotations

from pathlib import Path

from kernels import registry
from kernels.cpu.build import Unit, lay_out_op, lay_out_program, link, resolve_constants
from kernels.cpu.isa import Isa

#: Ops with code for tiles. All others are the same code, and the same objects, as without emulation.
TILED_OPS = tuple(op for op in registry.ops() if any("/tiles.h" in path.read_text() for path in registry.sources(op)))
assert TILED_OPS
#: as `each_library` calls them
NATIVE, EMULATED = "native", "emulated tiles"


def builds_of(op: str) -> tuple[str, ...]:
    """The builds in which the op's code differs."""
    return (NATIVE, EMULATED) if op in TILED_OPS else (NATIVE,)


def build_emulated(out: Path, isa: Isa) -> Path:
    """As `kernels.cpu.build.build`, with default constants."""
    constants = resolve_constants({}, isa)

    def lay_out(root: Path) -> list[Unit]:
        units = [lay_out_program(root, isa), *(lay_out_op(root, op, constants) for op in registry.ops())]
        for op in TILED_OPS:
            # Among what an op includes, this comes before tiles.h.
            with (root / op / "args.h").open("a") as file:
                file.write("#define CF_EMULATED_TILES 1\n")
        return units

    return link(lay_out, out, isa, None, lambda: None)
