"""The forms in which a row of activations leaves a kernel: in the activation dtype, or as codes with scales.

Symbols of entry points end in the form's suffix; `form_of` reads it off.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from kernels.gpu.launch import Constant, Problem, Ptr, RuntimeArgument
from kernels.gpu.rows import block_of
from kernels.gpu.target import Target
from kernels.spec import Arguments, Tensor

#: Columns that share a scale where scaling is "block" (DeepSeek-V3's 1 x 128).
SCALE_BLOCK = 128


@dataclass(frozen=True)
class Form:
    """`scaling`: "none" for the activation dtype; "row" and "block" find the scales, per token or per 128 columns of one;
    "tensor" takes the one scale that calibration found."""

    suffix: str
    dtype: Literal["act", "i8", "e4m3"]
    scaling: Literal["none", "row", "block", "tensor"]

    def tensors(self, width: str) -> tuple[Tensor, ...]:
        """What a spec lists for a result of [T, width]."""
        if self.scaling == "none":
            return (Tensor("out", self.dtype, ("T", width), "out"),)
        codes = Tensor("codes", self.dtype, ("T", width), "out")
        if self.scaling == "tensor":
            return (codes, Tensor("scale", "f32", (1,)))
        axes = ("T", f"{width}/{SCALE_BLOCK}") if self.scaling == "block" else ("T",)
        return (codes, Tensor("scales", "f32", axes, "out"))

    def buffers(self, num_tokens: int, width: int, scale: float = 0.02) -> Arguments:
        """Zeroed outputs, rows of codes further apart than they are long, and `scale` where it is given."""
        if self.scaling == "none":
            return {"out": np.zeros((num_tokens, width), np.float32)}
        codes = np.zeros((num_tokens, width + 16), np.int8 if self.dtype == "i8" else np.uint8)[:, :width]
        if self.scaling == "tensor":
            return {"codes": codes, "scale": np.array([scale], np.float32)}
        blocks = (-(-width // SCALE_BLOCK),) if self.scaling == "block" else ()
        return {"codes": codes, "scales": np.zeros((num_tokens, *blocks), np.float32)}

    def refusal(self, target: Target) -> str | None:
        if self.dtype == "e4m3" and not target.arch.has_fp8:
            return f"{target.arch.name} does not convert to e4m3"
        return None

    def block(self, width: int) -> int:
        """Columns of a program that holds a row of `width`."""
        return max(SCALE_BLOCK if self.scaling == "block" else 1, block_of(width))

    def launch_arguments(self, problem: Problem) -> tuple[dict[str, RuntimeArgument], dict[str, Constant]]:
        """out_ptr, scales_ptr, OUT_STRIDE, SCALES_STRIDE and SCALING of a kernel that ends in `store_columns`."""
        out = "out" if self.scaling == "none" else "codes"
        arguments: dict[str, RuntimeArgument] = {"out_ptr": Ptr(out)}
        constants: dict[str, Constant] = {"OUT_STRIDE": problem[out].strides[0], "SCALING": self.scaling, "SCALES_STRIDE": 0}
        if self.scaling == "none":
            constants["scales_ptr"] = None
        elif self.scaling == "tensor":
            arguments["scales_ptr"] = Ptr("scale")
        else:
            arguments["scales_ptr"] = Ptr("scales")
            constants["SCALES_STRIDE"] = problem["scales"].strides[0]
        return arguments, constants


PLAIN = Form("", "act", "none")
QUANTIZED = (
    Form("_int8", "i8", "row"),
    Form("_e4m3", "e4m3", "row"),
    Form("_e4m3_block", "e4m3", "block"),
    Form("_e4m3_tensor", "e4m3", "tensor"),
)


def form_of(symbol: str) -> Form:
    """The form that `symbol` writes."""
    return next((form for form in QUANTIZED if symbol.endswith(form.suffix)), PLAIN)
