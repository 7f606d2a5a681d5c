"""Numbers as people read them."""

from __future__ import annotations

import math


def figures(value: float, digits: int = 3) -> str:
    """`value` to that many significant digits, without an exponent where it stays short."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    exponent = math.floor(math.log10(abs(value)))
    if exponent < -4 or exponent > 6:
        mantissa, power = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa}e{int(power)}"
    return f"{value:.{max(0, digits - 1 - exponent)}f}"


def tick_label(value: float) -> str:
    """A tick's value, no longer than it must be."""
    return f"{value:g}" if abs(value) >= 1e-4 or value == 0 else f"{value:.0e}".replace("e-0", "e-")


def byte_size(num_bytes: int) -> str:
    """Decimal megabytes or gigabytes."""
    return f"{figures(num_bytes / 1e9)} GB" if num_bytes >= 1e9 else f"{figures(num_bytes / 1e6)} MB"


def percentage(fraction: float, digits: int = 3) -> str:
    return f"{figures(100 * fraction, digits)}\N{NO-BREAK SPACE}%"
