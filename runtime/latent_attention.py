"""Multi-head latent attention, laid out for a CPU in absorbed form."""

from __future__ import annotations

from typing import TYPE_CHECKING

from artifacts.layer_parts import Mla
from kernels.cpu import kv_cache
from runtime.models import UnsupportedModel
from runtime.operand import TOKENS, Operand

if TYPE_CHECKING:
    from runtime.decoder import CpuBuilder


class LatentAttention:
    """DeepSeek's attention (DeepSeek-AI 2024, DeepSeek-V2, 2.1): queries meet the cached latents in the latents' own space.

    UnsupportedModel for latents of an odd number of dimensions, of which kernels take two at a time.
    """

    def __init__(self, build: CpuBuilder, mla: Mla) -> None:
        if mla.cache_dim % 2:
            raise UnsupportedModel(
                f"CPU kernels need latents of an even number of dimensions; this {build.architecture.family} model's have "
                f"{mla.cache_dim}: kv_lora_rank {mla.kv_lora_rank} and qk_rope_head_dim {mla.rope_head_dim}"
            )
        self._build, self._mla = build, mla

    def attend(self, layer: int, q: Operand, kv: Operand) -> Operand:
        build, a, mla, name = self._build, self._build.architecture, self._mla, f"layers.{layer}"
        limits, kv_dtype, heads = build.limits, build.kv_dtype, a.num_q_heads
        queries = q.x.reshape(len(q.x), heads, a.head_dim)
        q_latent, attended_latent, attended = (
            build.buffer(buffer, heads * width).reshape(-1, heads, width)
            for buffer, width in (
                ("q_latent", mla.cache_dim), ("attended_latent", mla.kv_lora_rank), ("attended", mla.v_head_dim),
            )
        )  # fmt: skip
        # A latent is one head of kv's row, before its rotated key.
        build.norm_in_place(f"{name}.kv_norm", Operand({"x": kv.x[:, None, : mla.kv_lora_rank]}, TOKENS), (), a.rms_norm_eps)
        cache = kv_cache.empty_latents(kv_dtype, limits.num_kv_blocks, limits.kv_block_size, mla.cache_dim, build.cache_zeros)
        build.call(
            f"rope_and_cache_latent_{kv_dtype}", f"{name}.rope", q=queries, kv=kv.x, **build.rotation(layer),
            q_latent=q_latent, **cache,
        )  # fmt: skip
        k_up, v_up = (build.tensors[f"{name}.{up}.weight"] for up in ("k_up", "v_up"))
        build.call("head_matmul", f"{name}.k_up", x=queries, weight=k_up, out=q_latent)
        build.call(
            f"paged_attention_latent_{kv_dtype}", f"{name}.attention", {"T": "num_tokens", "S": "num_seqs"}, q=q_latent,
            **cache, **build.tables(layer), out=attended_latent, scale=a.score_scale,
        )  # fmt: skip
        build.call("head_matmul", f"{name}.v_up", x=attended_latent, weight=v_up, out=attended)
        return Operand({"x": attended.reshape(len(attended), -1)}, TOKENS)
