"""x = softcap tanh(x / softcap), in place and in fp32: logits that never exceed softcap."""

from __future__ import annotations

from dataclasses import replace

from kernels.softcap.spec import SPECS as CPU_SPECS

SPECS = tuple(replace(spec, symbol=f"gpu_{spec.symbol}", backend="gpu") for spec in CPU_SPECS)
