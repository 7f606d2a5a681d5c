"""Multi-head latent attention in float: the part of a decoder layer that calibration walks through."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from artifacts.architecture import Architecture
from artifacts.layer_parts import Mla
from kernels.rope_and_cache.reference import rotated_pairs


class FloatLatents:
    """Of one sequence, fp32, on keys and values of each head, as DeepSeek-V2's paper (DeepSeek-AI 2024, 2.1) writes them."""

    def __init__(
        self, architecture: Architecture, mla: Mla, tensors: Mapping[str, Tensor], rotation: tuple[Tensor, ...]
    ) -> None:
        self._architecture, self._mla, self._tensors, self._rotation = architecture, mla, tensors, rotation

    def attend(self, layer: int, q: Tensor, kv: Tensor) -> Tensor:
        a, mla, name = self._architecture, self._mla, f"layers.{layer}"
        cos, sin = (table[: len(q), None] for table in self._rotation)
        latent, shared = kv.tensor_split([mla.kv_lora_rank], dim=1)
        latent = functional.rms_norm(latent, latent.shape[-1:], self._tensors[f"{name}.kv_norm.weight"], a.rms_norm_eps)
        keys = torch.einsum("tr,hnr->htn", latent, self._tensors[f"{name}.k_up.weight"])
        values = torch.einsum("tr,hrv->htv", latent, self._tensors[f"{name}.v_up.weight"])
        turned = rotated_pairs(shared[:, None], cos, sin).transpose(0, 1).expand(a.num_q_heads, -1, -1)
        nope, rotary = q.view(len(q), -1, a.head_dim).tensor_split([mla.nope_head_dim], dim=2)
        queries = torch.cat([nope, rotated_pairs(rotary, cos, sin)], dim=2).transpose(0, 1)
        keys = torch.cat([keys, turned], dim=2)
        attended = functional.scaled_dot_product_attention(queries, keys, values, is_causal=True, scale=a.score_scale)
        return attended.transpose(0, 1).flatten(1)
