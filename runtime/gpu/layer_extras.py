"""What layers of some families have beside attention and a feed-forward network, laid out for a GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from runtime.gpu.builder import Operand, Stream
from runtime.network import Activation

if TYPE_CHECKING:
    from runtime.gpu.builder import GpuBuilder


class LayerExtras:
    """Norms without a gain, inputs that layers read beside the stream, and numbers that multiply it."""

    def __init__(self, build: GpuBuilder) -> None:
        self._build = build
        self._ones: dict[int, torch.Tensor] = {}

    def norm_without_gain(self, name: str, x: Operand, eps: float) -> Operand:
        _, num_heads, width = x.x.shape
        ones = self._ones.setdefault(width, torch.ones(width, device=self._build.device))
        out = self._build.buffer("normed", num_heads, width)
        self._build.call("gpu_rms_norm", name, x=x.x, residual=None, weight=ones, out=out, eps=eps)
        return Operand.plain(out)

    def rows(self, group: str) -> Operand:
        out = self._build.buffer(group, self._build.shapes[group][1])
        return Operand.plain(self._build.rows(group, out))

    def shares(self, x: Operand, width: int) -> Operand:
        return self._build.heads(x, width)

    def share(self, x: Operand, index: int) -> Operand:
        return Operand.plain(x.x[:, index])

    def add(self, x: Operand, more: Operand, factor: float) -> Operand:
        self._build.call("gpu_scaled_add", "add", stream=x.x.flatten(1), x=more.x.flatten(1), factor=factor)
        return x

    def gated_by(self, name: str, gate: Operand, x: Operand, activation: Activation) -> Operand:
        out = self._build.buffer("activated", gate.x.shape[1])
        self._build.call(f"gpu_{activation.name}_gate", name, gate=gate.x, x=x.x, out=out, **activation.scalars)
        return Operand.plain(out)

    def times(self, stream: Stream, factor: float) -> Stream:
        return self._scaled("times", stream, torch.tensor([factor], device=self._build.device))

    def scale(self, name: str, stream: Stream) -> Stream:
        return self._scaled(name, stream, self._build.tensors[f"{name}.weight"])

    def settled(self, stream: Stream) -> Stream:
        self._build.read(stream)
        return stream._replace(branch=None)

    def _scaled(self, label: str, stream: Stream, scale: torch.Tensor) -> Stream:
        self._build.call("gpu_scaled_sum", label, stream=stream.residual, x=stream.branch, scale=scale)
        return stream._replace(branch=None)
