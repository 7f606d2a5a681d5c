"""Multi-head latent attention, laid out in absorbed form: the chain of kernels/mla_attention/gpu_spec.py."""

from __future__ import annotations

import torch

from artifacts.errors import UserError
from artifacts.layer_parts import Mla
from runtime.gpu.builder import ATTENTION, GpuBuilder, Operand


class LatentAttention:
    """DeepSeek's attention (DeepSeek-AI 2024, DeepSeek-V2, 2.1): queries meet the cached latents in the latents' own space."""

    def __init__(self, build: GpuBuilder, mla: Mla) -> None:
        if build.kv_dtype != "bf16":
            raise UserError(
                f"the cache of latent attention has kernels for bf16, got {build.kv_dtype}; choose bf16 for kv_cache"
            )
        self._build, self._mla = build, mla

    def attend(self, layer: int, q: Operand, kv: Operand) -> Operand:
        build, a, mla, name = self._build, self._build.architecture, self._mla, f"layers.{layer}"
        queries = q.x.view(len(q.x), a.num_q_heads, a.head_dim)
        q_latent = build.buffer("q_latent", a.num_q_heads, mla.cache_dim)
        attended_latent = build.buffer("attended_latent", a.num_q_heads, mla.kv_lora_rank)
        attended = build.buffer("attended", a.num_q_heads, mla.v_head_dim)
        # A latent is one head of kv's row, before its rotated key.
        build.norm_in_place(f"{name}.kv_norm", Operand.plain(kv.x[:, None, : mla.kv_lora_rank]), (), a.rms_norm_eps)
        shape = (build.limits.num_kv_blocks, build.limits.kv_block_size, mla.cache_dim)
        cache = torch.zeros(shape, dtype=build.act, device=build.device)
        build.call(
            "gpu_mla_rope_and_cache", f"{name}.rope",
            q=queries, kv=kv.x, **build.rotation(layer), q_latent=q_latent, cache=cache,
        )  # fmt: skip
        k_up, v_up = (build.tensors[f"{name}.{up}.weight"] for up in ("k_up", "v_up"))
        build.call("gpu_head_matmul", f"{name}.k_up", x=queries, weight=k_up, out=q_latent)
        build.call(
            "gpu_mla_attention", f"{name}.attention", ATTENTION, q=q_latent, cache=cache, **build.tables(),
            out=attended_latent, scale=a.score_scale,
        )  # fmt: skip
        build.call("gpu_head_matmul", f"{name}.v_up", x=attended_latent, weight=v_up, out=attended)
        return Operand.plain(attended.flatten(1))
