"""Multi-head latent attention of a layer, laid out in absorbed form: the chain of kernels/mla_attention/gpu_spec.py."""

from __future__ import annotations

import torch

from artifacts.architecture import Mla
from runtime.gpu.attention import ATTENTION, Step
from runtime.gpu.layout import Operand


class LatentAttention:
    """DeepSeek's attention (DeepSeek-AI 2024, DeepSeek-V2, 2.1): queries meet the cached latents in the latents' own space."""

    def __init__(self, step: Step, hidden: torch.Tensor, mla: Mla) -> None:
        a, layout = step.architecture, step.layout
        if step.kv_dtype != "bf16":
            raise ValueError(
                f"the cache of latent attention has kernels for bf16, got {step.kv_dtype}; choose bf16 for kv_cache"
            )
        self._step, self._hidden, self._mla = step, hidden, mla
        self._q = layout.buffer(a.num_q_heads, a.head_dim)
        self._q_rank = layout.buffer(mla.q_lora_rank) if mla.q_lora_rank is not None else None
        self._kv = layout.buffer(mla.cache_dim)
        self._q_latent = layout.buffer(a.num_q_heads, mla.cache_dim)
        self._attended_latent = layout.buffer(a.num_q_heads, mla.kv_lora_rank)
        self._attended = layout.buffer(a.num_q_heads, mla.v_head_dim)

    def emit(self, layer: int, residual: torch.Tensor | None, x: torch.Tensor, out: torch.Tensor) -> None:
        step, layout, a, mla = self._step, self._step.layout, self._step.architecture, self._mla
        name, limits = f"layers.{layer}", step.limits
        queries = f"{name}.q" if self._q_rank is None else f"{name}.q_a"
        groups = [queries, f"{name}.kv_a"]
        operand = layout.norm(f"{name}.attn_norm", x, self._hidden, a.rms_norm_eps, groups, residual)
        # First, because rounding the queries again may take the operand's place.
        layout.linear(f"{name}.kv_a", operand, self._kv)
        self._project_queries(name, queries, operand)
        # A latent is one head of kv's row, before its rotated key.
        layout.head_norm(f"{name}.kv_norm", self._kv[:, None, : mla.kv_lora_rank], a.rms_norm_eps)
        shape = (limits.num_kv_blocks, limits.kv_block_size, mla.cache_dim)
        cache = torch.zeros(shape, dtype=layout.act, device=layout.device)
        layout.call(
            "gpu_mla_rope_and_cache", f"{name}.rope", q=self._q, kv=self._kv, cos=step.cos, sin=step.sin,
            positions=step.inputs.positions, slot_mapping=step.inputs.slot_mapping, q_latent=self._q_latent, cache=cache,
        )  # fmt: skip
        layout.call(
            "gpu_head_matmul", f"{name}.k_up", x=self._q, weight=layout.tensors[f"{name}.k_up.weight"], out=self._q_latent
        )
        layout.call(
            "gpu_mla_attention", f"{name}.attention", ATTENTION, q=self._q_latent, cache=cache, **step.tables(),
            out=self._attended_latent, scale=a.head_dim**-0.5 * mla.score_factor,
        )  # fmt: skip
        layout.call(
            "gpu_head_matmul", f"{name}.v_up",
            x=self._attended_latent, weight=layout.tensors[f"{name}.v_up.weight"], out=self._attended,
        )  # fmt: skip
        layout.linear(f"{name}.o", layout.operand(self._attended.flatten(1), [f"{name}.o"], f"{name}.o"), out)

    def _project_queries(self, name: str, queries: str, operand: Operand) -> None:
        layout, q = self._step.layout, self._q.flatten(1)
        if self._q_rank is None:
            layout.linear(queries, operand, q)
            return
        layout.linear(queries, operand, self._q_rank)
        eps = self._step.architecture.rms_norm_eps
        normed = layout.norm(f"{name}.q_norm", self._q_rank, self._q_rank, eps, [f"{name}.q_b"])
        layout.linear(f"{name}.q_b", normed, q)
