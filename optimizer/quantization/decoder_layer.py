"""One decoder layer in float, in plain torch: what runs between two sets of calibration statistics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from artifacts.architecture import Architecture
from optimizer.quantization.float_extras import FloatExtras, gated
from optimizer.quantization.float_latents import FloatLatents
from optimizer.quantization.float_mixture import FloatMixture
from runtime.network import Activation, final_norm, layer
from runtime.rope import rope_tables

#: canonical tensor name -> tensor, as `Source.tensor`
Tensors = Callable[[str], Tensor]
#: layer -> its keys, rotated, and its values, fp32 [T, heads, head_dim]
Caches = dict[int, tuple[Tensor, Tensor]]
#: (layer group, its input rows fp32 [T, K])
Observer = Callable[[str, Tensor], None]


class DecoderLayer:
    """Layer `index` of a model, its weights held in fp32. Whole sequences go through at once and leave no cache."""

    def __init__(self, architecture: Architecture, index: int, tensors: Tensors, num_positions: int) -> None:
        self._architecture, self._index = architecture, index
        names = [*(f"{group}.weight" for group in architecture.linear_shapes()), *architecture.float_shapes()]
        self._tensors = {name: tensors(name).to(torch.float32) for name in names if name.startswith(f"layers.{index}.")}
        cos, sin = rope_tables(architecture.rope_of(index), architecture.rope_width(index), num_positions)
        self._rotation = torch.from_numpy(cos), torch.from_numpy(sin)

    @torch.inference_mode()
    def __call__(
        self,
        hidden: Tensor,
        observe: Observer = lambda group, rows: None,
        caches: Caches | None = None,
        inputs: Tensor | None = None,
    ) -> Tensor:
        """The layer's output for one sequence, fp32 [T, hidden_size]; `observe` sees the input of each layer group.

        `caches` has keys and values of layers before, and gets those of this one; `inputs` are what it reads beside the stream.
        """
        build = FloatBuilder(self._architecture, self._tensors, self._rotation, observe, {} if caches is None else caches)
        return layer(self._architecture, self._index, build, hidden, inputs)


def normed_for_head(architecture: Architecture, gain: Tensor, hidden: Tensor) -> Tensor:
    """What the head reads, fp32 [T, hidden_size]."""
    return final_norm(architecture, FloatBuilder(architecture, {"final_norm.weight": gain}), hidden)


@dataclass(frozen=True)
class FloatBuilder:
    """Computes at once what it is told, over one sequence in fp32; an `observe`r sees what each layer group reads."""

    architecture: Architecture
    tensors: Mapping[str, Tensor]
    rotation: tuple[Tensor, ...] = ()
    observe: Observer = lambda group, rows: None
    caches: Caches = field(default_factory=dict)

    @property
    def extras(self) -> FloatExtras:
        return FloatExtras(self.tensors)

    @property
    def latents(self) -> FloatLatents | None:
        mla = self.architecture.mla
        return FloatLatents(self.architecture, mla, self.tensors, self.rotation) if mla else None

    @cached_property
    def mixtures(self) -> FloatMixture | None:
        moe = self.architecture.moe
        return FloatMixture(moe, self.tensors, self.observe) if moe else None

    def norm(self, name: str, stream: Tensor, readers: tuple[str, ...], eps: float) -> Tensor:
        return functional.rms_norm(stream, stream.shape[-1:], self.tensors[f"{name}.weight"], eps)

    norm_in_place = norm

    def read(self, stream: Tensor) -> Tensor:
        return stream

    def linear(self, group: str, x: Tensor) -> Tensor:
        self.observe(group, x)
        return functional.linear(x, self.tensors[f"{group}.weight"], self.tensors.get(f"{group}.bias"))

    def split(self, qkv: Tensor, sizes: tuple[int, ...]) -> tuple[Tensor, ...]:
        return torch.split(qkv, list(sizes), dim=1)

    def heads(self, x: Tensor, head_dim: int) -> Tensor:
        return x.view(len(x), -1, head_dim)

    def attend(
        self, layer: int, q: Tensor, k: Tensor | None, v: Tensor | None, scale: float, window: int, softcap: float
    ) -> Tensor:
        if k is not None and v is not None:
            self.caches[layer] = self._rotate(k), v
        k, v = self.caches[self.architecture.cache_of(layer)]
        q, k, v = (heads.transpose(0, 1)[None] for heads in (self._rotate(q), k, v))
        sinks = self.tensors.get(f"layers.{layer}.sinks")
        if softcap or sinks is not None:
            k, v = (heads.repeat_interleave(q.shape[1] // heads.shape[1], dim=1) for heads in (k, v))
            scores = scale * q @ k.transpose(2, 3)
            scores = softcap * torch.tanh(scores / softcap) if softcap else scores
            scores = scores.masked_fill(~_seen(q.shape[2], window), float("-inf"))
            if sinks is not None:
                scores = torch.cat((scores, sinks[None, :, None, None].expand(*scores.shape[:3], 1)), dim=3)
            attended = scores.softmax(dim=3)[..., : k.shape[2]] @ v
        else:
            causal = not 0 < window < q.shape[2]
            mask = None if causal else _seen(q.shape[2], window)
            attended = functional.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, scale=scale, enable_gqa=True)
        return attended[0].transpose(0, 1).flatten(1)

    def gated(self, name: str, gate_up: Tensor, reader: str, activation: Activation) -> Tensor:
        gate, up = gate_up.chunk(2, dim=1)
        return gated(gate, up, activation)

    def join(self, stream: Tensor, branch: Tensor, factor: float) -> Tensor:
        return torch.add(stream, branch, alpha=factor)

    def _rotate(self, heads: Tensor) -> Tensor:
        """Rotary embedding of [T, heads, head_dim], dimensions i and i + head_dim / 2 together."""
        cos, sin = (table[: len(heads), None] for table in self.rotation)
        a, b = heads.chunk(2, dim=2)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=2)


def _seen(num_tokens: int, window: int) -> Tensor:
    """Which keys a query sees, bool [T, T]."""
    age = torch.arange(num_tokens)[:, None] - torch.arange(num_tokens)[None, :]
    return (age >= 0) & (age < (window or num_tokens))
