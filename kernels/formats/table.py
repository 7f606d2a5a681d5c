"""Every kind of weights, and each layout by the names that symbols and schemes give it."""

from __future__ import annotations

from kernels.formats.float4 import MXFP4, NVFP4
from kernels.formats.floats import BF16, FP32
from kernels.formats.format import CpuPacking, Format, GpuPacking
from kernels.formats.fp8 import FP8
from kernels.formats.int3 import INT3
from kernels.formats.int4 import INT4
from kernels.formats.int8 import INT8
from kernels.formats.two_level import INT4_TWO_LEVEL

FORMATS: dict[str, Format] = {row.weights: row for row in (FP32, BF16, INT8, INT4, INT4_TWO_LEVEL, INT3, FP8, MXFP4, NVFP4)}


def cpu_products() -> dict[str, tuple[Format, CpuPacking]]:
    """What the symbols of `quant_matmul` end in -> the weights that they multiply by."""
    return {name: (row, layout) for row in FORMATS.values() for layout in row.cpu for name in layout.products}


def cpu_packing(name: str) -> CpuPacking:
    """The layout that `quant_matmul_<name>` reads; ValueError lists those there are."""
    products = cpu_products()
    if name not in products:
        raise ValueError(f"no CPU kernel takes {name}; there are {', '.join(products)}")
    return products[name][1]


def gpu_packing(name: str) -> GpuPacking | None:
    """The layout of weights in the scheme that is `name` but for its group size; None where GPUs have no kernels for it."""
    return next((layout for row in FORMATS.values() for layout in row.gpu if layout.name == name), None)
