"""The entry points of scaled_matmul: which tensors are multiplied, and what their scales cover."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from kernels.spec import Tensor

Scaling = Literal["none", "tensor", "channel", "block", "mx", "nv"]

#: Channels, and K, that a scale of `block` covers.
BLOCK_WIDTH = 128


@dataclass(frozen=True)
class Variant:
    """`dtype` is that of the codes of x and of the weight; `act` where x is not quantized."""

    dtype: str
    scaling: Scaling
    summary: str

    @property
    def integer(self) -> bool:
        return self.dtype == "i8"

    @property
    def is_float4(self) -> bool:
        """Whether weights are e2m1 in the order of fragments, which the kernel widens to x's dtype."""
        return self.scaling in ("mx", "nv")

    @property
    def x(self) -> str:
        """The name of the left operand's tensor."""
        return "x" if self.dtype == "act" else "x_codes"

    @property
    def weight(self) -> str:
        """The name of the right operand's tensor."""
        return "weight" if self.scaling == "none" else "codes"

    @property
    def weight_bits(self) -> float:
        """Bits of memory for a weight, those of its scale among them where the scale is fetched along with it."""
        return {"mx": 4.25, "nv": 4.5}.get(self.scaling) or {"act": 16, "i8": 8, "e4m3": 8}[self.dtype]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        x = Tensor(self.x, self.dtype, ("T", "K"))
        codes = Tensor(self.weight, self.dtype, ("N", "K"))
        match self.scaling:
            case "none":
                return x, codes
            case "tensor":
                return x, Tensor("x_scales", "f32", (1,)), codes, Tensor("scales", "f32", ("N",))
            case "channel":
                return x, Tensor("x_scales", "f32", ("T",)), codes, Tensor("scales", "f32", ("N",))
            case "block":
                x_scales = Tensor("x_scales", "f32", ("T", f"K/{BLOCK_WIDTH}"))
                return x, x_scales, codes, Tensor("scales", "f32", (f"N/{BLOCK_WIDTH}", f"K/{BLOCK_WIDTH}"))
            case "mx":
                return x, Tensor("codes", "u32", ("N/16", "K/64", 128)), Tensor("scales", "u32", ("N/16", "K/64", 8))
            case "nv":
                codes, scales = Tensor("codes", "u32", ("N/16", "K/64", 128)), Tensor("scales", "u32", ("N/16", "K/64", 16))
                return x, codes, scales, Tensor("row_scales", "f32", ("N",))


VARIANTS: Mapping[str, Variant] = MappingProxyType(
    {
        "gpu_matmul": Variant("act", "none", "x times the transpose of a matrix of its dtype"),
        "gpu_scaled_matmul_int8": Variant("i8", "channel", "int8 codes, a scale per token and per channel"),
        "gpu_scaled_matmul_e4m3_tensor": Variant("e4m3", "tensor", "e4m3 codes, a scale for all of x and one per channel"),
        "gpu_scaled_matmul_e4m3": Variant("e4m3", "channel", "e4m3 codes, a scale per token and per channel"),
        "gpu_scaled_matmul_e4m3_block": Variant("e4m3", "block", "e4m3 codes, a scale per 128 of K and per block of 128 x 128"),
        "gpu_scaled_matmul_mxfp4": Variant("act", "mx", "x times the transpose of an MXFP4 matrix"),
        "gpu_scaled_matmul_nvfp4": Variant("act", "nv", "x times the transpose of an NVFP4 matrix"),
    }
)
