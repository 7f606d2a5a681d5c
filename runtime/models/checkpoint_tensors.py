"""Which tensors of a Hugging Face checkpoint make up each canonical tensor."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache

from artifacts.architecture import Architecture
from artifacts.layer_parts import Mla, Moe
from runtime.models.stored_rows import Gain, HeadOrder, HeadRows, Part, Together

#: canonical name -> the tensors to join along their rows
Parts = dict[str, tuple[Part, ...]]


@dataclass(frozen=True)
class Naming:
    """How a family's checkpoints name and store what the others have, too."""

    norms: Mapping[str, str] = field(
        default_factory=lambda: {"attn_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
    )
    """Canonical name -> the checkpoint's, of the norms of the residual stream and of branches."""
    gains_less_one: bool = False
    fused_qkv: bool = False
    """Whether q, k and v are one tensor."""
    joined_gate_up: tuple[str, str] | None = None
    """What a network that all tokens go to calls gate with up, and down, where gate and up are one tensor."""
    dense: tuple[str, str] = ("mlp", "intermediate_size")
    """Where such a network stands in a layer, and the config's key for its size."""
    shared: tuple[str, str] = ("mlp.shared_experts", "n_shared_experts * moe_intermediate_size")
    """Likewise one beside experts."""
    neighbours_turn: bool = False
    """Whether dimensions 2 i and 2 i + 1 of a head turn together, not i and i + rotary_dim / 2."""
    mixture: tuple[str, str, str, str] = ("mlp", "gate_proj", "up_proj", "down_proj")
    """Where a mixture stands in a layer, and what it calls an expert's gate, up and down projections."""
    expert_size_key: str = "moe_intermediate_size"
    joined_experts: tuple[str, str, str] | None = None
    """What a layer calls its router, gate with up, and down, where each is one tensor of all experts."""
    experts_by_turns: bool = False
    """Whether such a tensor of experts has matrices transposed, and rows of gate and up by turns."""
    beside_dense: Mapping[str, str] = field(default_factory=dict)
    """Canonical name -> a layer's, of the norms of experts beside a dense network and of the router."""


_GEMMA = Naming(
    norms={
        "attn_norm": "input_layernorm",
        "attn_post_norm": "post_attention_layernorm",
        "mlp_norm": "pre_feedforward_layernorm",
        "mlp_post_norm": "post_feedforward_layernorm",
    },
    gains_less_one=True,
)
_GRANITE = Naming(
    expert_size_key="intermediate_size",
    joined_experts=(
        "block_sparse_moe.router.layer.weight",
        "block_sparse_moe.input_linear.weight",
        "block_sparse_moe.output_linear.weight",
    ),
)
_GEMMA_4 = replace(
    _GEMMA,
    gains_less_one=False,
    joined_experts=("router.proj.weight", "experts.gate_up_proj", "experts.down_proj"),
    beside_dense={
        "router_norm": "router.scale",
        "mixture_norm": "pre_feedforward_layernorm_2.weight",
        "mixture_post_norm": "post_feedforward_layernorm_2.weight",
        "dense_post_norm": "post_feedforward_layernorm_1.weight",
    },
)
_USUAL = Naming()
#: of families that do not name and store everything as llama does
NAMINGS: Mapping[str, Naming] = {
    "gemma": Naming(gains_less_one=True),
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
    "gemma4_text": _GEMMA_4,
    "gemma4_unified_text": _GEMMA_4,
    "glm4": Naming(
        norms={
            "attn_norm": "input_layernorm",
            "attn_post_norm": "post_self_attn_layernorm",
            "mlp_norm": "post_attention_layernorm",
            "mlp_post_norm": "post_mlp_layernorm",
        },
        joined_gate_up=("gate_up_proj", "down_proj"),
        neighbours_turn=True,
    ),
    "granitemoe": _GRANITE,
    "granitemoehybrid": replace(
        _GRANITE,
        joined_gate_up=("input_linear", "output_linear"),
        dense=("shared_mlp", "shared_intermediate_size"),
        shared=("shared_mlp", "shared_intermediate_size"),
    ),
    "olmoe": Naming(expert_size_key="intermediate_size"),
    "olmo2": Naming(
        norms={"attn_post_norm": "post_attention_layernorm", "mlp_post_norm": "post_feedforward_layernorm"},
    ),
    "gpt_oss": Naming(
        expert_size_key="intermediate_size",
        joined_experts=("mlp.router.weight", "mlp.experts.gate_up_proj", "mlp.experts.down_proj"),
        experts_by_turns=True,
    ),
    "mixtral": Naming(mixture=("block_sparse_moe", "w1", "w3", "w2"), expert_size_key="intermediate_size"),
    "phi3": Naming(fused_qkv=True, joined_gate_up=("gate_up_proj", "down_proj")),
}


def _naming(a: Architecture) -> Naming:
    return NAMINGS.get(a.family, _USUAL)


@lru_cache(maxsize=8)
def checkpoint_tensors(architecture: Architecture) -> Mapping[str, tuple[Part, ...]]:
    """Canonical name -> the tensors to join along their rows; families share these names, except those of experts.

    The table is made once for an architecture: every read of a tensor asks for it.
    Covers `<group>.weight` of every group in `linear_shapes()` and every tensor in `float_shapes()`.
    """
    a = architecture
    vocab, hidden = _Axis(a.vocab_size, "vocab_size"), _hidden(a)
    tensors: Parts = {"embed.weight": (_part("model.embed_tokens.weight", vocab, hidden),)}
    if a.per_layer_size:
        of_all = _Axis(a.num_layers * a.per_layer_size, "num_hidden_layers * hidden_size_per_layer_input")
        size = _Axis(a.per_layer_size, "hidden_size_per_layer_input")
        tensors |= {
            "embed_per_layer.weight": (_part("model.embed_tokens_per_layer.weight", vocab, of_all),),
            "per_layer_model_projection.weight": (_part("model.per_layer_model_projection.weight", of_all, hidden),),
            "per_layer_norm.weight": (_as_meant(a, _part("model.per_layer_projection_norm.weight", size), 2**0.5),),
        }
    for i in range(a.num_layers):
        ours, layer = f"layers.{i}", f"model.layers.{i}"
        tensors |= {f"{ours}.{name}": parts for name, parts in _norms(a, layer).items()}
        attention = _grouped_query_attention(a, i, layer) if a.mla is None else _latent_attention(a, a.mla, layer)
        moe = a.moe if a.is_moe(i) else None
        feed_forward = _experts(a, moe, layer) if moe else {}
        if moe is None or moe.beside_dense:
            feed_forward |= _swiglu(a, layer, _naming(a).dense, a.layer_shape(i).intermediate_size)
        tensors |= {f"{ours}.{name}": parts for name, parts in {**attention, **feed_forward, **_extras(a, layer)}.items()}
    tensors["final_norm.weight"] = (_gain(a, "model.norm.weight", a.logit_divisor),)
    if not a.tie_embeddings:
        tensors["head.weight"] = (_part("lm_head.weight", vocab, hidden),)
    return tensors


def _norms(a: Architecture, layer: str) -> Parts:
    """Gains behind a branch have the factor by which it joins the stream."""
    return {
        f"{ours}.weight": (_gain(a, f"{layer}.{theirs}.weight", _joining(a) if "post" in ours else 1.0),)
        for ours, theirs in _naming(a).norms.items()
    }


def _joining(a: Architecture) -> float:
    return a.embedding_scale / a.branch_scale


def _extras(a: Architecture, layer: str) -> Parts:
    """What `runtime.network.Extras` reads of a layer."""
    tensors: Parts = {"scalar.weight": (_part(f"{layer}.layer_scalar", _Axis(1, "layers")),)} if a.layer_scalars else {}
    if a.per_layer_size:
        size, hidden = _Axis(a.per_layer_size, "hidden_size_per_layer_input"), _hidden(a)
        tensors |= {
            "per_layer_input_gate.weight": (_part(f"{layer}.per_layer_input_gate.weight", size, hidden),),
            "per_layer_projection.weight": (_part(f"{layer}.per_layer_projection.weight", hidden, size),),
            "per_layer_post_norm.weight": (_gain(a, f"{layer}.post_per_layer_input_norm.weight", _joining(a)),),
        }
    return tensors


def without_effect(a: Architecture, name: str) -> bool:
    """Whether a checkpoint's tensor is one that its model has no use for: keys and values of a layer that reads another's."""
    found = re.match(r"model\.layers\.(\d+)\.self_attn\.[kv]_(proj|norm)\.", name)
    return bool(a.layer_caches and found and int(found[1]) < a.num_layers and not a.owns_cache(int(found[1])))


def _gain(a: Architecture, name: str, divisor: float = 1.0) -> Part:
    return _as_meant(a, _part(name, _hidden(a)), divisor)


def _as_meant(a: Architecture, part: Part, divisor: float = 1.0) -> Part:
    added = 1.0 if _naming(a).gains_less_one else 0.0
    return replace(part, gain=Gain(added, divisor)) if added or divisor != 1.0 else part


def _grouped_query_attention(a: Architecture, i: int, layer: str) -> Parts:
    attention, hidden, order = f"{layer}.self_attn", _hidden(a), _order(a, i)
    shape = a.layer_shape(i)
    q = _Axis(shape.q_size, "num_attention_heads * head_dim")
    kv = _Axis(shape.kv_size, "num_key_value_heads * head_dim")
    #: checkpoint's name, its rows, and how many heads of them turn
    projections = [("q_proj", q, a.num_q_heads), ("k_proj", kv, a.num_kv_heads), ("v_proj", kv, 0)][: len(a.qkv_sizes(i))]
    if _naming(a).fused_qkv:
        rows = _Axis(sum(a.qkv_sizes(i)), "(num_attention_heads + 2 num_key_value_heads) * head_dim")
        projections = [("qkv_proj", rows, a.num_q_heads + a.num_kv_heads)]

    def turned(part: Part, num_heads: int) -> Part:
        return replace(part, rows=HeadOrder(num_heads, order)) if order and num_heads else part

    tensors: Parts = {
        "qkv.weight": tuple(turned(_part(f"{attention}.{p}.weight", rows, hidden), heads) for p, rows, heads in projections),
        "o.weight": (_part(f"{attention}.o_proj.weight", hidden, q),),
    }
    if a.qkv_bias:
        tensors["qkv.bias"] = tuple(turned(_part(f"{attention}.{p}.bias", rows), heads) for p, rows, heads in projections)
    if a.output_bias:
        tensors["o.bias"] = (_part(f"{attention}.o_proj.bias", hidden),)
    if a.attention_sinks:
        tensors["sinks"] = (_part(f"{attention}.sinks", _Axis(a.num_q_heads, "num_attention_heads")),)
    if a.qk_norm:
        one = (_Axis(shape.head_dim, "head_dim"), 1)
        spans = ((q, a.num_q_heads), (kv, a.num_kv_heads)) if a.qk_norm_of_all_heads else (one, one)
        for name, (size, heads) in zip(("q_norm", "k_norm")[: 1 + a.owns_cache(i)], spans, strict=False):
            tensors[f"{name}.weight"] = (turned(_as_meant(a, _part(f"{attention}.{name}.weight", size)), heads),)
    return tensors


def _order(a: Architecture, i: int) -> tuple[int, ...]:
    """Where the dimensions of a head of layer i stand in the checkpoint; empty where they stand as they do here.

    Here i and i + head_dim / 2 turn together, those that turn coming first in each half.
    """
    rope, head_dim = a.rope_of(i), a.layer_shape(i).head_dim
    if rope.scaling == "proportional":
        return ()  # in a checkpoint, too
    turning, neighbours = rope.turning(head_dim), _naming(a).neighbours_turn
    pairs = [(2 * j, 2 * j + 1) if neighbours else (j, j + turning // 2) for j in range(turning // 2)]
    still = range(turning, head_dim)
    firsts, seconds = [one for one, _ in pairs], [other for _, other in pairs]
    order = (*firsts, *still[: len(still) // 2], *seconds, *still[len(still) // 2 :])
    return () if order == tuple(range(head_dim)) else order


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


def _swiglu(a: Architecture, layer: str, place: tuple[str, str], num_rows: int) -> Parts:
    network, hidden, size = f"{layer}.{place[0]}", _hidden(a), _Axis(num_rows, place[1])
    gate_up: tuple[Part, ...] = tuple(_part(f"{network}.{p}.weight", size, hidden) for p in ("gate_proj", "up_proj"))
    down = "down_proj"
    if joined := _naming(a).joined_gate_up:
        gate_up = (_part(f"{network}.{joined[0]}.weight", _Axis(2 * size.size, f"2 {size.config_key}"), hidden),)
        down = joined[1]
    return {"gate_up.weight": gate_up, "down.weight": (_part(f"{network}.{down}.weight", hidden, size),)}


def _experts(a: Architecture, moe: Moe, layer: str) -> Parts:
    """Expert after expert, each with its rows of gate before those of up."""
    place, gate, up, down = _naming(a).mixture
    mixture, hidden = f"{layer}.{place}", _hidden(a)
    size = _Axis(moe.intermediate_size, _naming(a).expert_size_key)
    count = _Axis(moe.num_experts, "the number of experts")
    shared = _swiglu(a, layer, _naming(a).shared, moe.shared_intermediate_size) if moe.shared_intermediate_size else {}
    if joined := _naming(a).joined_experts:
        return shared | _joined_experts(a, moe, *(f"{layer}.{name}" for name in joined)) | _beside_dense(a, moe, layer)
    experts = [f"{mixture}.experts.{expert}" for expert in range(moe.num_experts)]
    tensors: Parts = {
        "router.weight": (_part(f"{mixture}.gate.weight", count, hidden),),
        "experts_gate_up.weight": tuple(_part(f"{e}.{p}.weight", size, hidden) for e in experts for p in (gate, up)),
        "experts_down.weight": tuple(_part(f"{e}.{down}.weight", hidden, size) for e in experts),
    }
    if moe.scoring == "sigmoid":
        tensors["router.bias"] = (_part(f"{mixture}.gate.e_score_correction_bias", count),)
    return tensors | shared


def _joined_experts(a: Architecture, moe: Moe, router: str, gate_up: str, down: str) -> Parts:
    """The same, where each is one tensor of all experts."""
    by_turns, key, hidden = _naming(a).experts_by_turns, _naming(a).expert_size_key, _hidden(a)
    count = _Axis(moe.num_experts, "the number of experts")
    size, both = _Axis(moe.intermediate_size, key), _Axis(2 * moe.intermediate_size, f"2 {key}")
    tensors: Parts = {"router.weight": (_part(router, count, hidden),)}
    if moe.router_bias:
        tensors["router.logit_bias"] = (_part(f"{router.removesuffix('weight')}bias", count),)
    for ours, name, rows, width, turns in (
        ("experts_gate_up", gate_up, both, hidden, by_turns),
        ("experts_down", down, hidden, size, False),
    ):
        matrices = _part(name, count, width, rows) if by_turns else _part(name, count, rows, width)
        tensors[f"{ours}.weight"] = (replace(matrices, rows=Together(transposed=by_turns, by_turns=turns)),)
        if moe.expert_biases:
            tensors[f"{ours}.bias"] = (replace(_part(f"{name}_bias", count, rows), rows=Together(by_turns=turns)),)
    return tensors


def _beside_dense(a: Architecture, moe: Moe, layer: str) -> Parts:
    """What the router reads is normed, times its scale, over the root of hidden_size: the gain of its norm here."""
    tensors: Parts = {}
    for ours, theirs in (_naming(a).beside_dense if moe.beside_dense else {}).items():
        divisor = a.hidden_size**0.5 if ours == "router_norm" else 1.0
        tensors[f"{ours}.weight"] = (_gain(a, f"{layer}.{theirs}", divisor),)
    if moe.expert_scales:
        count = _Axis(moe.num_experts, "the number of experts")
        tensors["router.expert_scales"] = (_part(f"{layer}.router.per_expert_scale", count),)
    return tensors


@dataclass(frozen=True)
class _Axis:
    size: int
    config_key: str


def _hidden(a: Architecture) -> _Axis:
    return _Axis(a.hidden_size, "hidden_size")


def _part(name: str, *axes: _Axis) -> Part:
    return Part(name, tuple(axis.size for axis in axes), ", ".join(axis.config_key for axis in axes))
