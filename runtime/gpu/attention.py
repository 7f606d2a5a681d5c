"""Attention of a layer, laid out: grouped queries over a paged cache, or multi-head latent attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from artifacts.architecture import Architecture
from artifacts.kv_cache import scale_bytes
from artifacts.manifest import Serving
from artifacts.precision import KvDtype
from runtime.gpu.layout import GpuLayout
from runtime.gpu.program import GpuArgument, GpuBatch

#: variable axes and scalars of an attention call -> counts of the step
ATTENTION = {"T": "num_tokens", "S": "num_seqs", "max_query_len": "max_query_len"}
_CACHE_FORMS = {"bf16": "act", "fp16": "fp16", "int8": "int8", "fp8": "e4m3"}


class Attention(Protocol):
    """Lays out the attention of one layer: reads `hidden` after its norm, leaves its branch of the residual in `out`."""

    def emit(self, layer: int, residual: torch.Tensor | None, x: torch.Tensor, out: torch.Tensor) -> None: ...


@dataclass
class Step:
    """What all layers share: the layout, the step's inputs, rotary tables and limits."""

    layout: GpuLayout
    architecture: Architecture
    inputs: GpuBatch
    limits: Serving
    kv_dtype: KvDtype
    cos: torch.Tensor
    sin: torch.Tensor

    def tables(self) -> dict[str, GpuArgument]:
        """The block tables and lengths that attention reads."""
        inputs = self.inputs
        return {"block_tables": inputs.block_tables, "seq_lens": inputs.seq_lens, "cu_seqlens_q": inputs.cu_seqlens_q}


class GroupedQueryAttention:
    """Grouped-query attention (Ainslie et al. 2023), optionally within a sliding window."""

    def __init__(self, step: Step, hidden: torch.Tensor) -> None:
        a, layout = step.architecture, step.layout
        self._step, self._hidden = step, hidden
        self._qkv = layout.buffer(a.num_q_heads + 2 * a.num_kv_heads, a.head_dim)
        self._attended = layout.buffer(a.num_q_heads, a.head_dim)

    def emit(self, layer: int, residual: torch.Tensor | None, x: torch.Tensor, out: torch.Tensor) -> None:
        step, layout, a = self._step, self._step.layout, self._step.architecture
        name = f"layers.{layer}"
        operand = layout.norm(f"{name}.attn_norm", x, self._hidden, a.rms_norm_eps, [f"{name}.qkv"], residual)
        layout.linear(f"{name}.qkv", operand, self._qkv.flatten(1))
        q, k, v = torch.tensor_split(self._qkv, [a.num_q_heads, a.num_q_heads + a.num_kv_heads], dim=1)
        if a.qk_norm:
            layout.head_norm(f"{name}.q_norm", q, a.rms_norm_eps)
            layout.head_norm(f"{name}.k_norm", k, a.rms_norm_eps)
        caches, form = self._caches(), _CACHE_FORMS[step.kv_dtype]
        layout.call(
            f"gpu_rope_and_cache_{form}", f"{name}.rope", q=q, k=k, v=v, cos=step.cos, sin=step.sin,
            positions=step.inputs.positions, slot_mapping=step.inputs.slot_mapping, **caches,
        )  # fmt: skip
        layout.call(
            f"gpu_paged_attention_{form}", f"{name}.attention", ATTENTION, q=q, **caches, **step.tables(),
            out=self._attended, scale=a.head_dim**-0.5, window=a.window(layer), softcap=0.0,
        )  # fmt: skip
        attended = layout.operand(self._attended.flatten(1), [f"{name}.o"], f"{name}.o")
        layout.linear(f"{name}.o", attended, out)

    def _caches(self) -> dict[str, torch.Tensor]:
        """Of one layer: [num_blocks, block_size, num_kv_heads, head_dim], and a scale for each token and head where rounded."""
        step, a = self._step, self._step.architecture
        dtypes = {"bf16": step.layout.act, "fp16": torch.float16, "int8": torch.int8, "fp8": torch.float8_e4m3fn}
        shape = (step.limits.num_kv_blocks, step.limits.kv_block_size, a.num_kv_heads, a.head_dim)

        def zeros(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
            return torch.zeros(shape, dtype=dtype, device=step.layout.device)

        made = {f"{name}_cache": zeros(shape, dtypes[step.kv_dtype]) for name in "kv"}
        if scale_bytes(step.kv_dtype):
            made |= {f"{name}_scales": zeros(shape[:-1], torch.float32) for name in "kv"}
        return made
