"""One decoder layer in float, in plain torch: what runs between two sets of calibration statistics."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import rms_norm, scaled_dot_product_attention, silu

from artifacts.architecture import Architecture
from runtime.models import UnsupportedModel
from runtime.rope import rope_tables

#: canonical tensor name -> tensor, as `Source.tensor`
Tensors = Callable[[str], Tensor]
#: (layer group, its input rows fp32 [T, K])
Observer = Callable[[str, Tensor], None]


class DecoderLayer:
    """Layer `index` of a model, its weights held in fp32: grouped-query attention, then SwiGLU, each after an RMSNorm.

    Whole sequences go through at once and leave no cache. Raises UnsupportedModel for experts and latent attention.
    """

    def __init__(self, architecture: Architecture, index: int, tensors: Tensors, num_positions: int) -> None:
        check_calibrated(architecture)
        self._architecture = architecture
        self._name = f"layers.{index}"
        self._window = architecture.window(index)
        names = [*(f"{group}.weight" for group in architecture.linear_shapes()), *architecture.float_shapes()]
        self._tensors = {name: tensors(name).to(torch.float32) for name in names if name.startswith(f"{self._name}.")}
        cos, sin = rope_tables(architecture.rope, architecture.head_dim, num_positions)
        self._cos, self._sin = torch.from_numpy(cos), torch.from_numpy(sin)

    @torch.inference_mode()
    def __call__(self, hidden: Tensor, observe: Observer = lambda group, rows: None) -> Tensor:
        """The layer's output for one sequence, fp32 [T, hidden_size]; `observe` sees the input of each layer group."""
        hidden = hidden + self._attention(hidden, observe)
        return hidden + self._feed_forward(hidden, observe)

    def _attention(self, hidden: Tensor, observe: Observer) -> Tensor:
        a = self._architecture
        qkv = self._linear("qkv", self._norm("attn_norm", hidden), observe).view(len(hidden), -1, a.head_dim)
        q, k, v = torch.tensor_split(qkv, [a.num_q_heads, a.num_q_heads + a.num_kv_heads], dim=1)
        if a.qk_norm:
            q, k = self._norm("q_norm", q), self._norm("k_norm", k)
        q, k, v = (heads.transpose(0, 1) for heads in (self._rotate(q), self._rotate(k), v))
        mask = self._mask(len(hidden))
        attended = scaled_dot_product_attention(q[None], k[None], v[None], mask, is_causal=mask is None, enable_gqa=True)
        return self._linear("o", attended[0].transpose(0, 1).flatten(1), observe)

    def _feed_forward(self, hidden: Tensor, observe: Observer) -> Tensor:
        gate, up = self._linear("gate_up", self._norm("mlp_norm", hidden), observe).chunk(2, dim=1)
        return self._linear("down", silu(gate) * up, observe)

    def _linear(self, group: str, x: Tensor, observe: Observer) -> Tensor:
        name = f"{self._name}.{group}"
        observe(name, x)
        return torch.nn.functional.linear(x, self._tensors[f"{name}.weight"], self._tensors.get(f"{name}.bias"))

    def _norm(self, norm: str, x: Tensor) -> Tensor:
        return rms_norm(x, x.shape[-1:], self._tensors[f"{self._name}.{norm}.weight"], self._architecture.rms_norm_eps)

    def _rotate(self, heads: Tensor) -> Tensor:
        """Rotary embedding of [T, heads, head_dim], dimensions i and i + head_dim / 2 together."""
        cos, sin = self._cos[: len(heads), None], self._sin[: len(heads), None]
        a, b = heads.chunk(2, dim=2)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=2)

    def _mask(self, num_tokens: int) -> Tensor | None:
        """Which keys a query sees within a sliding window; None where it sees all before it."""
        if not 0 < self._window < num_tokens:
            return None
        age = torch.arange(num_tokens)[:, None] - torch.arange(num_tokens)[None, :]
        return (age >= 0) & (age < self._window)


def check_calibrated(architecture: Architecture) -> None:
    """UnsupportedModel where there is no float layer to calibrate with."""
    if architecture.moe or architecture.mla:
        what = "mixtures of experts" if architecture.moe else "latent attention"
        raise UnsupportedModel(
            f"calibration does not cover {what}, which this {architecture.family} model has; quantize it with method: rtn"
        )
