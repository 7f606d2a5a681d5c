"""What a decoder is laid out on: the calls so far, buffers shared by all layers, and linear layers in any scheme."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch

from artifacts.precision import Plan, Scheme
from kernels.formats.fp8 import INPUT_SCALE
from runtime.gpu.program import GpuArgument, GpuCall
from runtime.gpu.weights import gpu_packing_of

TOKENS = {"T": "num_tokens"}
LOGITS = {"T": "num_logits"}
_E4M3 = torch.float8_e4m3fn
_FORM_DTYPES = {"int8": torch.int8, "e4m3": _E4M3, "e4m3_block": _E4M3, "e4m3_tensor": _E4M3}
_SCALE_BLOCK = 128

#: form -> what a matmul takes: `x`, or `x_codes` and `x_scales`
Operand: TypeAlias = Mapping[str, Mapping[str, torch.Tensor]]


def form_of(scheme: Scheme) -> str:
    """How activations must come to weights of `scheme`: "" as they are, int8, e4m3, e4m3_block or e4m3_tensor."""
    return gpu_packing_of(scheme).form


@dataclass
class GpuLayout:
    """Emits calls. Buffers have room for `max_num_tokens` tokens; quantized activations share one set for each form."""

    tensors: Mapping[str, torch.Tensor]
    plan: Plan
    max_num_tokens: int
    act: torch.dtype
    device: torch.device
    calls: list[GpuCall] = field(default_factory=list)
    _rounded: dict[tuple[str, int], Mapping[str, torch.Tensor]] = field(default_factory=dict)

    def buffer(self, *extents: int, dtype: torch.dtype | None = None, rows: int = 1) -> torch.Tensor:
        """Zeroed, `rows` rows of `extents` for each token; activations unless `dtype` says otherwise."""
        shape = (self.max_num_tokens * rows, *extents)
        return torch.zeros(shape, dtype=dtype or self.act, device=self.device)

    def call(self, symbol: str, label: str, counters: Mapping[str, str] = TOKENS, /, **arguments: GpuArgument) -> None:
        self.calls.append(GpuCall(symbol, arguments, counters, label))

    def weights(self, group: str) -> dict[str, GpuArgument]:
        """The stored parts of a layer group's matrix, under the names that kernels give them."""
        names = (part.name for part in gpu_packing_of(self.plan[group]).tensors if part.name != INPUT_SCALE)
        return {name: self.tensors[f"{group}.{name}"] for name in names}

    def norm(
        self, name: str, x: torch.Tensor, out: torch.Tensor, eps: float, groups: Sequence[str] = (),
        residual: torch.Tensor | None = None,
    ) -> Operand:  # fmt: skip
        """Normalizes x [T, D] (after adding it to `residual`), for the layer groups that read the result.

        Where all of them want one rounded form, nothing else is written; otherwise `out` is, and rounded as often as needed.
        """
        forms = {form_of(self.plan[group]) for group in groups}
        weight = self.tensors[f"{name}.weight"]
        if len(forms) == 1 and (form := next(iter(forms))):
            written = self._codes(form, groups, x.shape[1])
            self.call(f"gpu_rms_norm_{form}", name, x=x, residual=residual, weight=weight, eps=eps, **written)
            return {form: _as_operand(written)}
        grouped = {key: None if t is None else t[:, None, :] for key, t in {"x": x, "residual": residual, "out": out}.items()}
        self.call("gpu_rms_norm", name, weight=weight, eps=eps, **grouped)
        return self.operand(out, groups, name)

    def head_norm(self, name: str, heads: torch.Tensor, eps: float) -> None:
        """Normalizes each head of [T, heads, D] in place."""
        self.call("gpu_rms_norm", name, x=heads, residual=None, weight=self.tensors[f"{name}.weight"], out=heads, eps=eps)

    def activated(self, name: str, gate_up: torch.Tensor, group: str, counters: Mapping[str, str] = TOKENS) -> Operand:
        """silu(gate) * up of [T, 2F], in the form that `group` wants."""
        width, form = gate_up.shape[1] // 2, form_of(self.plan[group])
        if form:
            written = self._codes(form, [group], width, gate_up.shape[0] // self.max_num_tokens)
            self.call(f"gpu_silu_and_mul_{form}", name, counters, x=gate_up, **written)
            return {form: _as_operand(written)}
        out = self.buffer(width, rows=gate_up.shape[0] // self.max_num_tokens)
        self.call("gpu_silu_and_mul", name, counters, x=gate_up, out=out)
        return {"": {"x": out}}

    def operand(self, x: torch.Tensor, groups: Sequence[str], label: str, counters: Mapping[str, str] = TOKENS) -> Operand:
        """x [T, K] in each form that `groups` want."""
        made: dict[str, Mapping[str, torch.Tensor]] = {"": {"x": x}}
        for form in sorted({form_of(self.plan[group]) for group in groups} - {""}):
            written = self._codes(form, groups, x.shape[1])
            self.call(f"gpu_quantize_activations_{form}", label, counters, x=x, **written)
            made[form] = _as_operand(written)
        return made

    def linear(self, group: str, operand: Operand, out: torch.Tensor, counters: Mapping[str, str] = TOKENS) -> None:
        """out = x W^T + bias, in the scheme of `group`."""
        scheme = self.plan[group]
        self.call(
            gpu_packing_of(scheme).matmul, group, counters, **operand[form_of(scheme)], **self.weights(group),
            bias=self.tensors.get(f"{group}.bias"), out=out,
        )  # fmt: skip

    def _codes(self, form: str, groups: Sequence[str], width: int, rows: int = 1) -> dict[str, torch.Tensor]:
        """Codes and scales of activations of `width`, used at once, so that one buffer serves all layers.

        Under e4m3_tensor the scale is a weight of the one layer group that reads them.
        """
        key = (f"{form}x{rows}", width)
        if key not in self._rounded:
            made = {"codes": self.buffer(width, dtype=_FORM_DTYPES[form], rows=rows)}
            if form != "e4m3_tensor":
                scale_width = (-(-width // _SCALE_BLOCK),) if form == "e4m3_block" else ()
                made["scales"] = self.buffer(*scale_width, dtype=torch.float32, rows=rows)
            self._rounded[key] = made
        if form != "e4m3_tensor":
            return dict(self._rounded[key])
        (group,) = groups
        return {**self._rounded[key], "scale": self.tensors[f"{group}.{INPUT_SCALE}"]}


def _as_operand(written: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {"x_codes": written["codes"], "x_scales": written["scale" if "scale" in written else "scales"]}
