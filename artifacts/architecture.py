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

from artifacts.layer_groups import RARE
from artifacts.layer_parts import LayerShape, Mla, Moe, Rope


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
    embedding_factor: PositiveFloat = 1.0
    """What embeddings are multiplied by here as well: what reads the stream without a norm needs it at its full size."""
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
    layer_shapes: tuple[LayerShape, ...] = ()
    """Sizes of each layer, where they are not those above in all layers; otherwise empty."""
    layer_caches: tuple[NonNegativeInt, ...] = ()
    """For each layer the one whose cache it attends to: itself, or an earlier one, and then it makes no keys and values. Empty:
    each has its own."""
    value_norm: bool = False
    """Whether values of each head pass an RMSNorm without a gain."""
    per_layer_size: NonNegativeInt = 0
    """What each layer reads of a token beside the stream: a row of a second embedding, and a projection of the first. It gates
    a third branch of the layer. 0 is none."""
    layer_scalars: bool = False
    """Whether a number of the checkpoint multiplies the stream behind each layer."""
    moe: Moe | None = None
    mla: Mla | None = None
    """Then `head_dim` is nope_head_dim + rope_head_dim, and `num_kv_heads` is `num_q_heads`."""

    @model_validator(mode="after")
    def _shapes_agree(self) -> Architecture:
        if self.num_q_heads % self.num_kv_heads:
            raise ValueError(f"num_q_heads must be a multiple of num_kv_heads, got {self.num_q_heads} and {self.num_kv_heads}")
        if self.head_dim % 2:
            raise ValueError(f"head_dim must be even for RoPE, got {self.head_dim}")
        by_layer = {"layer_windows": self.layer_windows, "layer_shapes": self.layer_shapes, "layer_caches": self.layer_caches}
        for name, entries in by_layer.items():
            if entries and len(entries) != self.num_layers:
                raise ValueError(
                    f"{name} must be empty or have one entry per layer, got {len(entries)} for {self.num_layers} layers"
                )
        shapes = [self.layer_shape(layer) for layer in range(self.num_layers)]
        for layer, owner in enumerate(self.layer_caches):
            if owner > layer or self.layer_caches[owner] != owner:
                raise ValueError(f"a cache must be of the layer or an earlier one with its own; layer {layer} names {owner}")
            if (shapes[layer].num_kv_heads, shapes[layer].head_dim) != (shapes[owner].num_kv_heads, shapes[owner].head_dim):
                raise ValueError(f"layers that share a cache must have the same KV heads; layers {layer} and {owner} differ")
        if self.layers_differ and self.mla:
            raise ValueError("with mla all layers must have the sizes of the model, a cache, and no inputs or scalars")
        ropes = (self.rope, *self.further_ropes)
        if self.layer_ropes and (len(self.layer_ropes) != self.num_layers or max(self.layer_ropes) >= len(ropes)):
            raise ValueError(
                f"layer_ropes must be empty or name one of {len(ropes)} ropes, from 0 on, for each of {self.num_layers} "
                f"layers, got {self.layer_ropes}"
            )
        for rope, head_dim in {(self.rope_of(layer), shapes[layer].head_dim) for layer in range(self.num_layers)}:
            turning = rope.turning(head_dim)
            if turning > head_dim:
                raise ValueError(f"rotary_dim must be at most head_dim, got {turning} and {head_dim}")
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
    def layers_differ(self) -> bool:
        """Whether layers have sizes, caches, inputs, norms or scalars that those of most families do not have."""
        own = (self.layer_shapes, self.layer_caches, self.per_layer_size, self.value_norm, self.layer_scalars)
        return any(own) or self.embedding_factor != 1.0

    @property
    def q_size(self) -> int:
        """Of a layer, where all have the same sizes."""
        return self.num_q_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Likewise."""
        return self.num_kv_heads * self.head_dim

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
        return sum(self.cached_elements(layer) for layer in range(self.num_layers) if self.owns_cache(layer))

    def cached_elements(self, layer: int) -> int:
        """Elements that a token takes in the cache that `layer` attends to."""
        return self.mla.cache_dim if self.mla else 2 * self.layer_shape(layer).kv_size

    def layer_shape(self, layer: int) -> LayerShape:
        """Sizes of `layer`."""
        if self.layer_shapes:
            return self.layer_shapes[layer]
        return LayerShape(
            num_q_heads=self.num_q_heads,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            intermediate_size=self.intermediate_size,
        )

    def cache_of(self, layer: int) -> int:
        """The layer whose cache `layer` attends to."""
        return self.layer_caches[layer] if self.layer_caches else layer

    def owns_cache(self, layer: int) -> bool:
        """Whether `layer` attends to keys and values that it makes itself."""
        return self.cache_of(layer) == layer

    def qkv_sizes(self, layer: int) -> tuple[int, ...]:
        """Rows of queries, keys and values that `layer` projects, as far as it does."""
        shape = self.layer_shape(layer)
        if not self.owns_cache(layer):
            return (shape.q_size,)
        return (shape.q_size, shape.kv_size) if shape.keys_are_values else (shape.q_size, shape.kv_size, shape.kv_size)

    def rope_width(self, layer: int) -> int:
        """Dimensions of a head that `rope_of` is of: all, or those that do not meet the latent."""
        return self.mla.rope_head_dim if self.mla else self.layer_shape(layer).head_dim

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
        return {group: others, f"{layer}.{RARE}{kind}": rare} if rare else {group: others}

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
        if self.per_layer_size:
            width = self.num_layers * self.per_layer_size
            shapes |= {"embed_per_layer": (self.vocab_size, width), "per_layer_model_projection": (width, self.hidden_size)}
        for i in range(self.num_layers):
            shapes |= {f"layers.{i}.{name}": shape for name, shape in self._attention_shapes(i).items()}
            shapes |= {f"layers.{i}.{name}": shape for name, shape in self._mlp_shapes(i).items()}
            if self.per_layer_size:
                shapes[f"layers.{i}.per_layer_input_gate"] = (self.per_layer_size, self.hidden_size)
                shapes[f"layers.{i}.per_layer_projection"] = (self.hidden_size, self.per_layer_size)
        if not self.tie_embeddings:
            shapes["head"] = (self.vocab_size, self.hidden_size)
        return shapes

    def _attention_shapes(self, layer: int) -> dict[str, tuple[int, int]]:
        if self.mla is None:
            q_size = self.layer_shape(layer).q_size
            return {"qkv": (sum(self.qkv_sizes(layer)), self.hidden_size), "o": (self.hidden_size, q_size)}
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
        shapes, size = dict[str, tuple[int, int]](), self.layer_shape(layer).intermediate_size
        if self.moe is not None and self.is_moe(layer):
            shapes = self.moe.linear_shapes(self.hidden_size, len(self.rare_experts(layer)))
            size = size if self.moe.beside_dense else self.moe.shared_intermediate_size
        return shapes | ({"gate_up": (2 * size, self.hidden_size), "down": (self.hidden_size, size)} if size else {})

    def float_shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor that no plan quantizes (gains, biases, sinks, routers, MLA's up-projection of the latent) -> shape."""
        shapes: dict[str, tuple[int, ...]] = {"final_norm.weight": (self.hidden_size,)}
        if self.per_layer_size:
            shapes["per_layer_norm.weight"] = (self.per_layer_size,)
        for i in range(self.num_layers):
            shape = self.layer_shape(i)
            if self.pre_norms:
                shapes[f"layers.{i}.attn_norm.weight"] = (self.hidden_size,)
                shapes[f"layers.{i}.mlp_norm.weight"] = (self.hidden_size,)
            if self.post_norms:
                shapes[f"layers.{i}.attn_post_norm.weight"] = (self.hidden_size,)
                shapes[f"layers.{i}.mlp_post_norm.weight"] = (self.hidden_size,)
            if self.qkv_bias:
                shapes[f"layers.{i}.qkv.bias"] = (sum(self.qkv_sizes(i)),)
            if self.output_bias:
                shapes[f"layers.{i}.o.bias"] = (self.hidden_size,)
            if self.attention_sinks:
                shapes[f"layers.{i}.sinks"] = (self.num_q_heads,)
            if self.qk_norm:
                whole = self.qk_norm_of_all_heads
                shapes[f"layers.{i}.q_norm.weight"] = (shape.q_size if whole else shape.head_dim,)
                if self.owns_cache(i):
                    shapes[f"layers.{i}.k_norm.weight"] = (shape.kv_size if whole else shape.head_dim,)
            if self.per_layer_size:
                shapes[f"layers.{i}.per_layer_post_norm.weight"] = (self.hidden_size,)
            if self.layer_scalars:
                shapes[f"layers.{i}.scalar.weight"] = (1,)
            if self.mla is not None:
                rank, heads = self.mla.kv_lora_rank, self.num_q_heads
                shapes[f"layers.{i}.kv_norm.weight"] = (rank,)
                # Folded into the query and into the output: each is used alone.
                shapes[f"layers.{i}.k_up.weight"] = (heads, self.mla.nope_head_dim, rank)
                shapes[f"layers.{i}.v_up.weight"] = (heads, rank, self.mla.v_head_dim)
                if self.mla.q_lora_rank is not None:
                    shapes[f"layers.{i}.q_norm.weight"] = (self.mla.q_lora_rank,)
            if self.moe is not None and self.is_moe(i):
                shapes |= {f"layers.{i}.{name}": extents for name, extents in self.moe.float_shapes(self.hidden_size).items()}
        return shapes
