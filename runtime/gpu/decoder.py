"""Lays a decoder out as a step for a GPU: the same network as runtime/decoder.py, over the kernels and layouts of GPUs."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from artifacts.architecture import Architecture
from artifacts.manifest import Serving
from artifacts.precision import KvDtype, Plan
from runtime.gpu.attention import Attention, GroupedQueryAttention, Step
from runtime.gpu.feed_forward import DenseFeedForward, MoeFeedForward
from runtime.gpu.latent_attention import LatentAttention
from runtime.gpu.layout import LOGITS, GpuLayout
from runtime.gpu.program import GpuBatch, GpuProgram
from runtime.gpu.weights import gpu_packing_of
from runtime.rope import rope_tables

#: rows of logits that are computed at a time where prompts are scored
_LOGITS_AT_ONCE = 256


def lay_out_gpu(
    architecture: Architecture,
    plan: Plan,
    kv_dtype: KvDtype,
    tensors: Mapping[str, torch.Tensor],
    limits: Serving,
    act: torch.dtype,
    device: torch.device,
) -> GpuProgram:
    """The step of a model; `tensors` are as `weights.to_device` gives them, buffers and cache are allocated here."""
    a = architecture
    layout = GpuLayout(tensors, plan, limits.max_num_batched_tokens, act, device)
    num_logits = max(limits.max_num_seqs, min(_LOGITS_AT_ONCE, limits.max_num_batched_tokens))
    inputs = GpuBatch.zeros(limits, num_logits, device)
    logits = torch.zeros((num_logits, a.vocab_size), dtype=torch.float32, device=device)
    residual, hidden, branch = (layout.buffer(a.hidden_size) for _ in range(3))

    rotary = a.mla.rope_head_dim if a.mla else a.head_dim
    cos, sin = (torch.from_numpy(table).to(device) for table in rope_tables(a.rope, rotary, limits.max_model_len))
    step = Step(layout, a, inputs, limits, kv_dtype, cos, sin)
    attention: Attention = LatentAttention(step, hidden, a.mla) if a.mla else GroupedQueryAttention(step, hidden)
    dense = DenseFeedForward(layout, a) if a.moe is None or a.moe.first_layer else None
    experts = MoeFeedForward(layout, a, a.moe) if a.moe else None

    embedding = f"gpu_embedding_{gpu_packing_of(plan['embed']).embedding}"
    layout.call(embedding, "embed", token_ids=inputs.token_ids, **layout.weights("embed"), out=residual)
    for i in range(a.num_layers):
        name = f"layers.{i}"
        # The branch of the previous layer joins the residual stream inside the norm that reads it next.
        if i == 0:
            attention.emit(i, None, residual, branch)
        else:
            attention.emit(i, residual, branch, branch)
        if experts is not None and a.is_moe(i):
            layout.norm(f"{name}.mlp_norm", branch, hidden, a.rms_norm_eps, (), residual)
            experts.emit(name, hidden, layout.operand(hidden, experts.groups(name), f"{name}.mlp_norm"), branch)
        elif dense is not None:
            operand = layout.norm(f"{name}.mlp_norm", branch, hidden, a.rms_norm_eps, [f"{name}.gate_up"], residual)
            dense.emit(name, operand, branch)
    layout.norm("final_norm", branch, hidden, a.rms_norm_eps, (), residual)
    body = tuple(layout.calls)
    layout.call(
        "gpu_gather_rows", "gather_rows", {"T": "num_tokens", "R": "num_logits"}, x=hidden, rows=inputs.logit_rows, out=branch
    )
    head = "embed" if a.tie_embeddings else "head"
    layout.linear(head, layout.operand(branch, [head], head, LOGITS), logits, LOGITS)
    pairs = a.moe.num_experts_per_token if a.moe else 1
    return GpuProgram(body, tuple(layout.calls[len(body) :]), inputs, logits, limits, pairs)
