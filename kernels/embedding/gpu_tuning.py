"""How many columns a program copies, and how many warps share them: as gather_rows."""

from __future__ import annotations

from kernels.gather_rows.gpu_tuning import TUNING

__all__ = ["TUNING"]
