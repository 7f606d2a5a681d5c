"""What a decoder is, as data: enough to lay out its step program without any family's code."""

from __future__ import annotations

from typing import Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from artifacts.layer_parts import Mla, Moe, Rope


class Architecture(BaseModel):
    """A decoder: RMSNorm before each branch, unless `pre_norms` says otherwise, grouped-query attention with RoPE, a gated
    feed-forward network; with `moe` experts, with `mla` latent attention, with `post_norms` a norm of each branch as it joins.

    Units: sizes in elements, `max_position` and windows in tokens.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: str
    vocab_size: PositiveInt
    hidden_size: PositiveInt
    intermediate_size: PositiveInt
    num_layers: PositiveInt
    num_q_heads: PositiveInt
    num_kv_heads: PositiveInt
    head_dim: PositiveInt
    max_position: PositiveInt
    rms_norm_eps: PositiveFloat
    rope: Rope = Rope()
    further_ropes: tuple[Rope, ...] = ()
    layer_ropes: tuple[NonNegativeInt, ...] = ()
    """For each layer which of `rope` (0) and `further_ropes` (from 1 on) its positions turn by. Empty: `rope` everywhere."""
    tie_embeddings: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    qk_norm: bool = False
    qk_norm_of_all_heads: bool = False
    """Whether one norm spans all heads of a token's queries, and one those of its keys; otherwise each head has its own."""
    activation: Literal["silu", "gelu", "clamped_silu"] = "silu"
    """Of the gate; gelu is its approximation by tanh. Under clamped_silu with limit L and slope s, gates g and what they
    multiply, u, make min(g, L) sigmoid(s min(g, L)) (1 + max(-L, min(u, L)))."""
    activation_limit: NonNegativeFloat = 0.0
    """Of clamped_silu."""
    activation_slope: PositiveFloat = 1.0
    """Likewise."""
    pre_norms: bool = True
    """Whether a branch reads the norm of the stream, and not the stream itself."""
    post_norms: bool = False
    embedding_scale: PositiveFloat = 1.0
    """What the family multiplies embeddings by. Here the whole residual stream is as much smaller instead: branches join it by
    `branch_factor`, and norms of the stream take an eps smaller by its square."""
    branch_scale: PositiveFloat = 1.0
    """What the family multiplies a branch by where it joins the residual stream."""
    logit_divisor: PositiveFloat = 1.0
    """What the family divides logits by. Here the gain of the final norm has been divided by it."""
    query_scalar: PositiveFloat | None = None
    """Scores are divided by its square root; None is `head_dim`."""
    attention_softcap: NonNegativeFloat = 0.0
    """Scores s become c tanh(s / c), where it is not 0."""
    attention_sinks: bool = False
    """Whether each head has a score more, which joins the sum that weights are divided by, and stands for no value."""
    logit_softcap: NonNegativeFloat = 0.0
    """Logits likewise."""
    layer_windows: tuple[int, ...] = Field(default=())
    """Sliding window of each layer: a query sees the last `window` positions, itself included; 0 is full attention.
    Empty means full attention everywhere."""
    moe: Moe | None = None
    mla: Mla | None = None
    """Then `head_dim` is nope_head_dim + rope_head_dim, and `num_kv_heads` is `num_q_heads`."""

    @model_validator(mode="after")
    def _shapes_agree(self) -> Architecture:
        if self.num_q_heads % self.num_kv_heads:
            raise ValueError(f"num_q_heads must be a multiple of num_kv_heads, got {self.num_q_heads} and {self.num_kv_heads}")
        if self.head_dim % 2:
            raise ValueError(f"head_dim must be even for RoPE, got {self.head_dim}")
        if self.layer_windows and len(self.layer_windows) != self.num_layers:
            raise ValueError(
                f"layer_windows must be empty or have one entry per layer, got {len(self.layer_windows)} "
                f"for {self.num_layers} layers"
            )
        ropes = (self.rope, *self.further_ropes)
        if self.layer_ropes and (len(self.layer_ropes) != self.num_layers or max(self.layer_ropes) >= len(ropes)):
            raise ValueError(
                f"layer_ropes must be empty or name one of {len(ropes)} ropes, from 0 on, for each of {self.num_layers} "
                f"layers, got {self.layer_ropes}"
            )
        for rope in ropes:
            turning = rope.turning(self.head_dim)
            if turning > self.head_dim:
                raise ValueError(f"rotary_dim must be at most head_dim, got {turning} and {self.head_dim}")
            if rope.scaling == "longrope" and any(
                len(factors) != turning // 2 for factors in (rope.short_factors, rope.long_factors)
            ):
                raise ValueError(
                    f"longrope needs {turning // 2} short_factors and as many long_factors, one for each pair of dimensions "
                    f"that turns; got {len(rope.short_factors)} and {len(rope.long_factors)}"
                )
        if (self.activation == "clamped_silu") != (self.activation_limit > 0):
            raise ValueError(
                "activation_limit must be positive under clamped_silu and 0 otherwise, got "
                f"{self.activation_limit} under {self.activation}"
            )
        if not self.pre_norms and (self.moe or self.mla or self.embedding_scale != 1.0):
            raise ValueError("pre_norms must be true with moe, mla or an embedding_scale, got false")
        rare = self.moe.rare_experts if self.moe else ()
        if rare and (len(rare) != self.num_layers or any(some and not self.is_moe(i) for i, some in enumerate(rare))):
            raise ValueError(
                f"rare_experts must be empty or have one entry for each of {self.num_layers} layers, with none where the layer "
                f"is dense; got {rare}"
            )
        if self.mla and self.attention_sinks:
            raise ValueError("attention_sinks must be false with mla, got true")
        if self.mla and self.head_dim != self.mla.nope_head_dim + self.mla.rope_head_dim:
            raise ValueError(
                "under mla, head_dim must be nope_head_dim + rope_head_dim, got "
                f"{self.head_dim}, {self.mla.nope_head_dim} and {self.mla.rope_head_dim}"
            )
        return self

    @property
    def q_size(self) -> int:
        return self.num_q_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        return self.num_kv_heads * self.head_dim

    @property
    def rope_width(self) -> int:
        """Dimensions of a head that `rope` is of: all, or those that do not meet the latent."""
        return self.mla.rope_head_dim if self.mla else self.head_dim

    @property
    def score_scale(self) -> float:
        """What products of queries and keys are multiplied by."""
        scale: float = (self.query_scalar or self.head_dim) ** -0.5
        return scale * self.mla.score_factor if self.mla else scale

    @property
    def branch_factor(self) -> float:
        """What a branch is multiplied by where it joins the stream as it is here; gains of `post_norms` have been already."""
        return self.branch_scale / self.embedding_scale

    @property
    def stream_eps(self) -> float:
        """The eps of norms that read the residual stream."""
        return self.rms_norm_eps / self.embedding_scale**2

    @property
    def kv_elements_per_token(self) -> int:
        """Elements that a token takes in the caches of all layers."""
        return self.num_layers * (self.mla.cache_dim if self.mla else 2 * self.kv_size)

    def rope_of(self, layer: int) -> Rope:
        """How positions of `layer` turn."""
        return (self.rope, *self.further_ropes)[self.layer_ropes[layer] if self.layer_ropes else 0]

    def is_moe(self, layer: int) -> bool:
        """Whether `layer` has experts in place of one feed-forward network."""
        return self.moe is not None and layer >= self.moe.first_layer

    def rare_experts(self, layer: int) -> tuple[int, ...]:
        """Those of `layer` that stand in layer groups of their own."""
        return self.moe.rare_experts[layer] if self.moe and self.moe.rare_experts else ()

    def expert_groups(self, group: str) -> dict[str, tuple[int, ...]]:
        """The layer groups of all experts that `group`, such as `layers.3.experts_down`, is of -> the experts of each, in the
        order of their rows: `group` itself, and then that of the rare ones if there are any."""
        assert self.moe is not None
        layer, kind = group.rsplit(".", 1)
        rare = self.rare_experts(int(layer.rsplit(".", 1)[1]))
        others = tuple(expert for expert in range(self.moe.num_experts) if expert not in rare)
        return {group: others, f"{layer}.{_RARE}{kind}": rare} if rare else {group: others}

    def window(self, layer: int) -> int:
        """Sliding window of `layer` in tokens, 0 for full attention."""
        return self.layer_windows[layer] if self.layer_windows else 0

    def linear_shapes(self) -> dict[str, tuple[int, int]]:
        """Every layer group that a precision plan covers -> (out_features, in_features), in step order.

        q/k/v are one group and gate/up are one group: engines fuse them, so they share a scheme; so do all experts of a layer,
        whose rows stand one expert after the other, but for `rare_experts`. A tied head has no group of its own: it reads
        `embed`.
        """
        shapes = {"embed": (self.vocab_size, self.hidden_size)}
        for i in range(self.num_layers):
            shapes |= {f"layers.{i}.{name}": shape for name, shape in self._attention_shapes().items()}
            shapes |= {f"layers.{i}.{name}": shape for name, shape in self._mlp_shapes(i).items()}
        if not self.tie_embeddings:
            shapes["head"] = (self.vocab_size, self.hidden_size)
        return shapes

    def _attention_shapes(self) -> dict[str, tuple[int, int]]:
        if self.mla is None:
            return {"qkv": (self.q_size + 2 * self.kv_size, self.hidden_size), "o": (self.hidden_size, self.q_size)}
        rank = self.mla.q_lora_rank
        queries = (
            {"q": (self.q_size, self.hidden_size)}
            if rank is None
            else {"q_a": (rank, self.hidden_size), "q_b": (self.q_size, rank)}
        )
        return {
            **queries,
            "kv_a": (self.mla.cache_dim, self.hidden_size),
            "o": (self.hidden_size, self.num_q_heads * self.mla.v_head_dim),
        }

    def _mlp_shapes(self, layer: int) -> dict[str, tuple[int, int]]:
        if self.moe is None or not self.is_moe(layer):
            return {
                "gate_up": (2 * self.intermediate_size, self.hidden_size),
                "down": (self.hidden_size, self.intermediate_size),
            }
        size, shared, rare = self.moe.intermediate_size, self.moe.shared_intermediate_size, len(self.rare_experts(layer))
        of_one = {"experts_gate_up": (2 * size, self.hidden_size), "experts_down": (self.hidden_size, size)}
        shapes = {kind: ((self.moe.num_experts - rare) * rows, columns) for kind, (rows, columns) in of_one.items()}
        if rare:
            shapes |= {f"{_RARE}{kind}": (rare * rows, columns) for kind, (rows, columns) in of_one.items()}
        if shared:
            shapes |= {"gate_up": (2 * shared, self.hidden_size), "down": (self.hidden_size, shared)}
        return shapes

    def float_shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor that no plan quantizes (gains, biases, sinks, routers, MLA's up-projection of the latent) -> shape."""
        shapes: dict[str, tuple[int, ...]] = {"final_norm.weight": (self.hidden_size,)}
        for i in range(self.num_layers):
            if self.pre_norms:
                shapes[f"layers.{i}.attn_norm.weight"] = (self.hidden_size,)
                shapes[f"layers.{i}.mlp_norm.weight"] = (self.hidden_size,)
            if self.post_norms:
                shapes[f"layers.{i}.attn_post_norm.weight"] = (self.hidden_size,)
                shapes[f"layers.{i}.mlp_post_norm.weight"] = (self.hidden_size,)
            if self.qkv_bias:
                shapes[f"layers.{i}.qkv.bias"] = (self.q_size + 2 * self.kv_size,)
            if self.output_bias:
                shapes[f"layers.{i}.o.bias"] = (self.hidden_size,)
            if self.attention_sinks:
                shapes[f"layers.{i}.sinks"] = (self.num_q_heads,)
            if self.qk_norm:
                whole = self.qk_norm_of_all_heads
                shapes[f"layers.{i}.q_norm.weight"] = (self.q_size if whole else self.head_dim,)
                shapes[f"layers.{i}.k_norm.weight"] = (self.kv_size if whole else self.head_dim,)
            if self.mla is not None:
                rank, heads = self.mla.kv_lora_rank, self.num_q_heads
                shapes[f"layers.{i}.kv_norm.weight"] = (rank,)
                # Folded into the query and into the output: each is used alone.
                shapes[f"layers.{i}.k_up.weight"] = (heads, self.mla.nope_head_dim, rank)
                shapes[f"layers.{i}.v_up.weight"] = (heads, rank, self.mla.v_head_dim)
                if self.mla.q_lora_rank is not None:
                    shapes[f"layers.{i}.q_norm.weight"] = (self.mla.q_lora_rank,)
            if self.moe is not None and self.is_moe(i):
                shapes[f"layers.{i}.router.weight"] = (self.moe.num_experts, self.hidden_size)
                if self.moe.scoring == "sigmoid":
                    shapes[f"layers.{i}.router.bias"] = (self.moe.num_experts,)
                if self.moe.router_bias:
                    shapes[f"layers.{i}.router.logit_bias"] = (self.moe.num_experts,)
                if self.moe.expert_biases:
                    experts, size = self.moe.num_experts, self.moe.intermediate_size
                    shapes[f"layers.{i}.experts_gate_up.bias"] = (experts * 2 * size,)
                    shapes[f"layers.{i}.experts_down.bias"] = (experts * self.hidden_size,)
        return shapes


#: before the kind of a layer group of `rare_experts`
_RARE = "rare_"


def kind_of(group: str) -> str:
    """The kind of a layer group: `layers.3.qkv` -> `qkv`; `embed` and `head` are kinds of their own."""
    return group.rsplit(".", 1)[-1]


def plain_group(group: str) -> str:
    """The layer group, or kind of one, that is the same of the other experts, if `group` is of `rare_experts`; else `group`."""
    layer, dot, kind = group.rpartition(".")
    return f"{layer}{dot}{kind.removeprefix(_RARE)}"


def is_of_experts(group: str) -> bool:
    """Whether a layer group is of experts that tokens are routed to: the rows of one stand after those of another."""
    return kind_of(plain_group(group)).startswith("experts")
