"""Which tensors of a Hugging Face checkpoint make up each canonical tensor."""

from __future__ import annotations

from dataclasses import dataclass

from artifacts.architecture import Architecture


@dataclass(frozen=True)
class Part:
    """A checkpoint's tensor: its name, the shape that the config implies, and the config keys that imply it."""

    name: str
    shape: tuple[int, ...]
    config_keys: str


def checkpoint_tensors(architecture: Architecture) -> dict[str, tuple[Part, ...]]:
    """Canonical name -> the tensors to join along their rows; all families share these names.

    Covers `<group>.weight` of every group in `linear_shapes()` and every tensor in `float_shapes()`.
    """
    a = architecture
    vocab, hidden = _Axis(a.vocab_size, "vocab_size"), _Axis(a.hidden_size, "hidden_size")
    intermediate = _Axis(a.intermediate_size, "intermediate_size")
    q = _Axis(a.q_size, "num_attention_heads * head_dim")
    kv = _Axis(a.kv_size, "num_key_value_heads * head_dim")
    head_dim = _Axis(a.head_dim, "head_dim")

    tensors: dict[str, tuple[Part, ...]] = {"embed.weight": (_part("model.embed_tokens.weight", vocab, hidden),)}
    for i in range(a.num_layers):
        ours, layer = f"layers.{i}", f"model.layers.{i}"
        attention, mlp = f"{layer}.self_attn", f"{layer}.mlp"
        projections = (("q_proj", q), ("k_proj", kv), ("v_proj", kv))
        tensors[f"{ours}.attn_norm.weight"] = (_part(f"{layer}.input_layernorm.weight", hidden),)
        tensors[f"{ours}.qkv.weight"] = tuple(_part(f"{attention}.{p}.weight", rows, hidden) for p, rows in projections)
        if a.qkv_bias:
            tensors[f"{ours}.qkv.bias"] = tuple(_part(f"{attention}.{p}.bias", rows) for p, rows in projections)
        if a.qk_norm:
            tensors[f"{ours}.q_norm.weight"] = (_part(f"{attention}.q_norm.weight", head_dim),)
            tensors[f"{ours}.k_norm.weight"] = (_part(f"{attention}.k_norm.weight", head_dim),)
        tensors[f"{ours}.o.weight"] = (_part(f"{attention}.o_proj.weight", hidden, q),)
        if a.output_bias:
            tensors[f"{ours}.o.bias"] = (_part(f"{attention}.o_proj.bias", hidden),)
        tensors[f"{ours}.mlp_norm.weight"] = (_part(f"{layer}.post_attention_layernorm.weight", hidden),)
        tensors[f"{ours}.gate_up.weight"] = tuple(
            _part(f"{mlp}.{p}.weight", intermediate, hidden) for p in ("gate_proj", "up_proj")
        )
        tensors[f"{ours}.down.weight"] = (_part(f"{mlp}.down_proj.weight", hidden, intermediate),)
    tensors["final_norm.weight"] = (_part("model.norm.weight", hidden),)
    if not a.tie_embeddings:
        tensors["head.weight"] = (_part("lm_head.weight", vocab, hidden),)
    return tensors


@dataclass(frozen=True)
class _Axis:
    size: int
    config_key: str


def _part(name: str, *axes: _Axis) -> Part:
    return Part(name, tuple(axis.size for axis in axes), ", ".join(axis.config_key for axis in axes))
