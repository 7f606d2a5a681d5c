"""A decoder as a step for a GPU."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from artifacts.architecture import Architecture
from artifacts.manifest import Limits
from artifacts.precision import KvDtype, Plan
from runtime.gpu.builder import GpuBuilder
from runtime.gpu.latent_attention import LatentAttention
from runtime.gpu.layer_extras import LayerExtras
from runtime.gpu.mixture import Mixture
from runtime.gpu.program import GpuBatch, GpuProgram
from runtime.models import UnsupportedModel
from runtime.network import network

#: rows of logits that are computed at a time where prompts are scored
_LOGITS_AT_ONCE = 256


def lay_out_gpu(
    architecture: Architecture,
    plan: Plan,
    kv_dtype: KvDtype,
    tensors: Mapping[str, torch.Tensor],
    limits: Limits,
    act: torch.dtype,
    device: torch.device,
) -> GpuProgram:
    """The step of a model; `tensors` are as `weights.to_device` gives them, buffers and cache are allocated here.

    UnsupportedModel for what only CPUs have kernels for.
    """
    a = architecture
    if a.moe and a.moe.rare_experts:
        raise UnsupportedModel("GPU kernels have one scheme for all experts of a layer; rare_experts must be empty for them")
    num_logits = max(limits.max_num_seqs, min(_LOGITS_AT_ONCE, limits.max_num_batched_tokens))

    def zeros(shape: tuple[int, ...], dtype: str) -> torch.Tensor:
        return torch.zeros(shape, dtype=getattr(torch, dtype), device=device)

    inputs = GpuBatch.zeros(limits, num_logits, zeros)
    logits = zeros((num_logits, a.vocab_size), "float32")
    build = GpuBuilder(a, plan, kv_dtype, tensors, limits, act, inputs, logits)
    build.latents = LatentAttention(build, a.mla) if a.mla else None
    build.mixtures = Mixture(build, a.moe) if a.moe else None
    build.extras = LayerExtras(build)
    network(a, build)
    body, head = build.calls[: build.num_body_calls], build.calls[build.num_body_calls :]
    pairs = a.moe.num_experts_per_token if a.moe else 1
    return GpuProgram(tuple(body), tuple(head), inputs, logits, limits, pairs)
