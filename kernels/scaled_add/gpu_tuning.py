"""How many columns a program adds, and how many warps share them."""

from __future__ import annotations

from kernels.softcap.gpu_tuning import TUNING

__all__ = ["TUNING"]
