"""e2m1 codes, four in 16 bits, as numbers of 16 bits in registers: the lines of PTX that widen them.

In a file that kernels import: compiled ones are kept by its text.
"""

#: kernels/scaled_matmul/packing.py's, said again for the same reason.
MX_SLOTS = ((15, 6), (12, 3), (14, 0), (13, 9))


def _move(sign_bit: int, rest_bit: int, lowest: int) -> list[str]:
    """PTX: of $8, one slot of both halves to `pair`: its sign to the top of the half, the rest to `lowest`, zeros else."""
    taken = (1 << sign_bit | 7 << rest_bit) * 0x00010001
    wanted = (1 << 15 | 7 << lowest) * 0x00010001
    sign_up, rest_up = 15 - sign_bit, lowest - rest_bit
    if sign_up == rest_up:
        return [f"shl.b32 pair, $8, {sign_up};", f"and.b32 pair, pair, {wanted:#x};"]
    moved = [bit + up for bit in range(32) if taken >> bit & 1 for up in (sign_up, rest_up)]
    if rest_up >= 0 and len(set(moved)) == len(moved):
        # No two bits meet: one product moves them all.
        factor = (1 << sign_up) + (1 << rest_up)
        return [f"and.b32 pair, $8, {taken:#x};", f"mul.lo.u32 pair, pair, {factor};", f"and.b32 pair, pair, {wanted:#x};"]
    return [
        f"shl.b32 sign, $8, {sign_up};",
        "and.b32 sign, sign, 0x80008000;",
        f"{'shl.b32' if rest_up >= 0 else 'shr.u32'} pair, $8, {abs(rest_up)};",
        f"lop3.b32 pair, pair, {wanted & 0x7FFF7FFF:#x}, sign, 0xea;",
    ]


def widen_e2m1(act: str, lowest: int) -> str:
    """PTX: $8 has eight codes, four in each half; those of slot i become $2i and $2i+1, times what $9 (slots 0 and 1) or $10
    (slots 2 and 3) has twice. `lowest` is astride of the exponent's lowest bit and the mantissa's highest: there a code is its
    number times a power of two, a subnormal one too. Minus zero is what any product can be added to unchanged.
    """
    lines = [".reg .b32 sign, pair, zero;", "mov.b32 zero, 0x80008000;"]
    for slot, (sign_bit, rest_bit) in enumerate(MX_SLOTS):
        lines += _move(sign_bit, rest_bit, lowest)
        lines += [f"fma.rn.{act}x2 pair, pair, ${9 + slot // 2}, zero;", f"mov.b32 {{${2 * slot}, ${2 * slot + 1}}}, pair;"]
    return "{\n" + "\n".join(lines) + "\n}"
