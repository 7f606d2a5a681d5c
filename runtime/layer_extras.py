"""What layers of some families have beside attention and a feed-forward network, laid out for a CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kernels.spec import Array
from runtime.buffers import zeros
from runtime.network import Activation
from runtime.operand import TOKENS, Operand

if TYPE_CHECKING:
    from runtime.decoder import CpuBuilder, Stream


class LayerExtras:
    """Norms without a gain, inputs that layers read beside the stream, and numbers that multiply it."""

    def __init__(self, build: CpuBuilder) -> None:
        self._build = build
        self._ones: dict[int, Array] = {}

    def norm_without_gain(self, name: str, x: Operand, eps: float) -> Operand:
        num_heads, width = x.x.shape[1:]
        if width not in self._ones:
            self._ones[width] = zeros((width,), np.float32)
            self._ones[width][:] = 1
        out = self._build.buffer("normed", num_heads * width).reshape(-1, num_heads, width)
        self._build.call("rms_norm", name, x=x.x, residual=None, weight=self._ones[width], out=out, eps=eps)
        return Operand({"x": out}, TOKENS)

    def rows(self, group: str) -> Operand:
        out = self._build.buffer(group, self._build.shapes[group][1])
        return Operand({"x": self._build.rows(group, out)}, TOKENS)

    def shares(self, x: Operand, width: int) -> Operand:
        return self._build.heads(x, width)

    def share(self, x: Operand, index: int) -> Operand:
        return Operand({"x": x.x[:, index]}, TOKENS)

    def add(self, x: Operand, more: Operand, factor: float) -> Operand:
        stream, other = (values.x.reshape(len(values.x), -1) for values in (x, more))
        self._build.call("scaled_add", "add", stream=stream, x=other, factor=factor)
        return x

    def gated_by(self, name: str, gate: Operand, x: Operand, activation: Activation) -> Operand:
        out = self._build.buffer("activated", gate.x.shape[1])
        self._build.call(f"{activation.name}_gate", name, gate=gate.x, x=x.x, out=out, **activation.scalars)
        return Operand({"x": out}, TOKENS)

    def times(self, stream: Stream, factor: float) -> Stream:
        scale = zeros((1,), np.float32)
        scale[0] = factor
        return self._scaled("times", stream, scale)

    def scale(self, name: str, stream: Stream) -> Stream:
        return self._scaled(name, stream, self._build.tensors[f"{name}.weight"])

    def settled(self, stream: Stream) -> Stream:
        self._build.read(stream)
        return stream._replace(branch=None)

    def _scaled(self, label: str, stream: Stream, scale: Array) -> Stream:
        self._build.call("scaled_sum", label, stream=stream.residual, x=stream.branch, scale=scale)
        return stream._replace(branch=None)
