"""What attention computes, beside the products that a plan covers. Pure."""

from __future__ import annotations

from artifacts.architecture import Architecture


def attention_flops(a: Architecture, layer: int, num_tokens: float, num_pairs: float) -> float:
    """Operations of `layer` for so many tokens, which see positions in `num_pairs` pairs: scores, and sums of values.

    Latents are attended to in absorbed form (DeepSeek-AI 2024, DeepSeek-V2, 2.1.2): each token's queries are brought into their
    space, and results out of it. A multiply-add is two.
    """
    if a.mla is None:
        return 4.0 * a.layer_shape(layer).q_size * num_pairs
    mla, heads = a.mla, a.num_q_heads
    up = 2.0 * heads * mla.kv_lora_rank * (mla.nope_head_dim + mla.v_head_dim)
    return up * num_tokens + 2.0 * heads * (mla.cache_dim + mla.kv_lora_rank) * num_pairs
