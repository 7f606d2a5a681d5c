"""Programs that hold a row, or a part of one, in their registers: how wide the block and how many warps."""

from __future__ import annotations

from kernels.gpu.target import Target
from kernels.refusal import Refusal

MAX_THREADS = 1024
#: Elements of a row that a thread may hold in fp32; more of them, with what is computed from them, would spill.
MAX_ELEMENTS_PER_THREAD = 64
#: Threads of a multiprocessor share 65536 registers: at 1024 threads each has 64, and needs some for addresses.
MAX_ELEMENTS_OF_PROGRAM = 32768
NUM_WARPS = (1, 2, 4, 8, 16)


def block_of(width: int) -> int:
    """The power of two that holds `width` columns."""
    return 1 << max(0, width - 1).bit_length()


def row_refusal(block: int, num_warps: int, target: Target) -> str | None:
    """Why so many warps cannot hold a block of so many columns."""
    lanes = num_warps * target.arch.warp_size
    if lanes > MAX_THREADS:
        return f"{lanes} threads are more than a program may have, {MAX_THREADS}"
    if num_warps > 1 and lanes > block:
        return f"{num_warps} warps have more threads than the block has columns, {block}"
    if block > MAX_ELEMENTS_PER_THREAD * lanes or block > MAX_ELEMENTS_OF_PROGRAM:
        return f"{block} columns do not fit into the registers of {num_warps} warps"
    return None


def row_warps(block: int, target: Target) -> int:
    """Warps for a block: eight elements of two bytes a thread, which are its widest load, until there are 16 warps."""
    legal = [warps for warps in NUM_WARPS if row_refusal(block, warps, target) is None]
    if not legal:
        raise Refusal(f"a row of {block} columns does not fit into the registers of one program on {target.arch.name}")
    return next((warps for warps in legal if block <= 8 * warps * target.arch.warp_size), legal[-1])
