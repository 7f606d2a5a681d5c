"""Which tensors of a Hugging Face checkpoint make up each canonical tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from artifacts.architecture import Architecture, Mla, Moe

if TYPE_CHECKING:
    from torch import Tensor

#: canonical name -> the tensors to join along their rows
Parts = dict[str, "tuple[Part, ...]"]


@dataclass(frozen=True)
class HeadRows:
    """Rows `start` to `stop` of each of `num_heads` equal shares of a matrix's rows."""

    num_heads: int
    start: int
    stop: int
    transposed: bool

    def of(self, matrix: Tensor) -> Tensor:
        """[heads, stop - start, K], or with the last two axes exchanged."""
        rows = matrix.view(self.num_heads, -1, matrix.shape[1])[:, self.start : self.stop]
        return (rows.transpose(1, 2) if self.transposed else rows).contiguous()


@dataclass(frozen=True)
class Gain:
    """A norm's gain, made of what is stored: (stored + added) / divisor."""

    added: float
    divisor: float

    def of(self, stored: Tensor) -> Tensor:
        """fp32."""
        return (stored.float() + self.added) / self.divisor


@dataclass(frozen=True)
class Part:
    """A checkpoint's tensor: its name, the shape that the config implies, and the config keys that imply it.

    `rows` says what of it is meant, where that is not all; `gain` how it is meant, where that is not as it is stored.
    """

    name: str
    shape: tuple[int, ...]
    config_keys: str
    rows: HeadRows | None = None
    gain: Gain | None = None

    def taken_from(self, stored: Tensor) -> Tensor:
        """What of the checkpoint's tensor `name` is meant."""
        part = stored if self.rows is None else self.rows.of(stored)
        return part if self.gain is None else self.gain.of(part)


@lru_cache(maxsize=8)
def checkpoint_tensors(architecture: Architecture) -> Mapping[str, tuple[Part, ...]]:
    """Canonical name -> the tensors to join along their rows; families share these names, except those of experts.

    The table is made once for an architecture: every read of a tensor asks for it.
    Covers `<group>.weight` of every group in `linear_shapes()` and every tensor in `float_shapes()`.
    """
    a = architecture
    vocab, hidden = _Axis(a.vocab_size, "vocab_size"), _hidden(a)
    tensors: Parts = {"embed.weight": (_part("model.embed_tokens.weight", vocab, hidden),)}
    for i in range(a.num_layers):
        ours, layer = f"layers.{i}", f"model.layers.{i}"
        tensors |= {f"{ours}.{name}": parts for name, parts in _norms(a, layer).items()}
        attention = _grouped_query_attention(a, layer) if a.mla is None else _latent_attention(a, a.mla, layer)
        if a.moe is not None and a.is_moe(i):
            feed_forward = _experts(a, a.moe, layer)
        else:
            feed_forward = _swiglu(f"{layer}.mlp", hidden, _Axis(a.intermediate_size, "intermediate_size"))
        tensors |= {f"{ours}.{name}": parts for name, parts in {**attention, **feed_forward}.items()}
    tensors["final_norm.weight"] = (_gain(a, "model.norm.weight"),)
    if not a.tie_embeddings:
        tensors["head.weight"] = (_part("lm_head.weight", vocab, hidden),)
    return tensors


def _norms(a: Architecture, layer: str) -> Parts:
    if not a.post_norms:
        return {
            "attn_norm.weight": (_gain(a, f"{layer}.input_layernorm.weight"),),
            "mlp_norm.weight": (_gain(a, f"{layer}.post_attention_layernorm.weight"),),
        }
    return {
        "attn_norm.weight": (_gain(a, f"{layer}.input_layernorm.weight"),),
        "attn_post_norm.weight": (_gain(a, f"{layer}.post_attention_layernorm.weight", a.embedding_scale),),
        "mlp_norm.weight": (_gain(a, f"{layer}.pre_feedforward_layernorm.weight"),),
        "mlp_post_norm.weight": (_gain(a, f"{layer}.post_feedforward_layernorm.weight", a.embedding_scale),),
    }


#: families that store gains less one
_LESS_ONE = ("gemma2",)


def _gain(a: Architecture, name: str, divisor: float = 1.0) -> Part:
    part = _part(name, _hidden(a))
    added = 1.0 if a.family in _LESS_ONE else 0.0
    return replace(part, gain=Gain(added, divisor)) if added or divisor != 1.0 else part


def _grouped_query_attention(a: Architecture, layer: str) -> Parts:
    attention, hidden = f"{layer}.self_attn", _hidden(a)
    q = _Axis(a.q_size, "num_attention_heads * head_dim")
    kv = _Axis(a.kv_size, "num_key_value_heads * head_dim")
    head_dim = _Axis(a.head_dim, "head_dim")
    projections = (("q_proj", q), ("k_proj", kv), ("v_proj", kv))
    tensors: Parts = {
        "qkv.weight": tuple(_part(f"{attention}.{p}.weight", rows, hidden) for p, rows in projections),
        "o.weight": (_part(f"{attention}.o_proj.weight", hidden, q),),
    }
    if a.qkv_bias:
        tensors["qkv.bias"] = tuple(_part(f"{attention}.{p}.bias", rows) for p, rows in projections)
    if a.output_bias:
        tensors["o.bias"] = (_part(f"{attention}.o_proj.bias", hidden),)
    if a.qk_norm:
        tensors["q_norm.weight"] = (_part(f"{attention}.q_norm.weight", head_dim),)
        tensors["k_norm.weight"] = (_part(f"{attention}.k_norm.weight", head_dim),)
    return tensors


def _latent_attention(a: Architecture, mla: Mla, layer: str) -> Parts:
    """DeepSeek's: kv_b_proj has, head by head, the rows that make keys of a latent and then those that make values."""
    attention, hidden, heads = f"{layer}.self_attn", _hidden(a), a.num_q_heads
    rank = _Axis(mla.kv_lora_rank, "kv_lora_rank")
    q = _Axis(a.q_size, "num_attention_heads * (qk_nope_head_dim + qk_rope_head_dim)")
    per_head = mla.nope_head_dim + mla.v_head_dim
    up = _part(
        f"{attention}.kv_b_proj.weight",
        _Axis(heads * per_head, "num_attention_heads * (qk_nope_head_dim + v_head_dim)"),
        rank,
    )
    keys = HeadRows(heads, 0, mla.nope_head_dim, transposed=False)
    values = HeadRows(heads, mla.nope_head_dim, per_head, transposed=True)
    cached = _Axis(mla.cache_dim, "kv_lora_rank + qk_rope_head_dim")
    attended = _Axis(heads * mla.v_head_dim, "num_attention_heads * v_head_dim")
    tensors: Parts = {
        "kv_a.weight": (_part(f"{attention}.kv_a_proj_with_mqa.weight", cached, hidden),),
        "kv_norm.weight": (_part(f"{attention}.kv_a_layernorm.weight", rank),),
        "k_up.weight": (Part(up.name, up.shape, up.config_keys, keys),),
        "v_up.weight": (Part(up.name, up.shape, up.config_keys, values),),
        "o.weight": (_part(f"{attention}.o_proj.weight", hidden, attended),),
    }
    if mla.q_lora_rank is None:
        return tensors | {"q.weight": (_part(f"{attention}.q_proj.weight", q, hidden),)}
    q_rank = _Axis(mla.q_lora_rank, "q_lora_rank")
    return tensors | {
        "q_a.weight": (_part(f"{attention}.q_a_proj.weight", q_rank, hidden),),
        "q_norm.weight": (_part(f"{attention}.q_a_layernorm.weight", q_rank),),
        "q_b.weight": (_part(f"{attention}.q_b_proj.weight", q, q_rank),),
    }


def _swiglu(network: str, hidden: _Axis, size: _Axis) -> Parts:
    return {
        "gate_up.weight": tuple(_part(f"{network}.{p}.weight", size, hidden) for p in ("gate_proj", "up_proj")),
        "down.weight": (_part(f"{network}.down_proj.weight", hidden, size),),
    }


#: family -> where its mixture stands in a layer, and what it calls an expert's projections
_MIXTURES: Mapping[str, tuple[str, str, str, str]] = {"mixtral": ("block_sparse_moe", "w1", "w3", "w2")}
_MIXTURE = ("mlp", "gate_proj", "up_proj", "down_proj")


def _experts(a: Architecture, moe: Moe, layer: str) -> Parts:
    """Expert after expert, each with its rows of gate before those of up."""
    place, gate, up, down = _MIXTURES.get(a.family, _MIXTURE)
    mixture, hidden = f"{layer}.{place}", _hidden(a)
    size = _Axis(moe.intermediate_size, "intermediate_size" if a.family in _MIXTURES else "moe_intermediate_size")
    count = _Axis(moe.num_experts, "the number of experts")
    experts = [f"{mixture}.experts.{expert}" for expert in range(moe.num_experts)]
    tensors: Parts = {
        "router.weight": (_part(f"{mixture}.gate.weight", count, hidden),),
        "experts_gate_up.weight": tuple(_part(f"{e}.{p}.weight", size, hidden) for e in experts for p in (gate, up)),
        "experts_down.weight": tuple(_part(f"{e}.{down}.weight", hidden, size) for e in experts),
    }
    if moe.scoring == "sigmoid":
        tensors["router.bias"] = (_part(f"{mixture}.gate.e_score_correction_bias", count),)
    if moe.shared_intermediate_size:
        shared = _Axis(moe.shared_intermediate_size, "n_shared_experts * moe_intermediate_size")
        tensors |= _swiglu(f"{mixture}.shared_experts", hidden, shared)
    return tensors


@dataclass(frozen=True)
class _Axis:
    size: int
    config_key: str


def _hidden(a: Architecture) -> _Axis:
    return _Axis(a.hidden_size, "hidden_size")


def _part(name: str, *axes: _Axis) -> Part:
    return Part(name, tuple(axis.size for axis in axes), ", ".join(axis.config_key for axis in axes))
