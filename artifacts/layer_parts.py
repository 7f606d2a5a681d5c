"""Parts of a decoder, as data: rotary embedding, sizes of a layer, mixtures of experts, latent attention."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from artifacts.layer_groups import RARE


class Rope(BaseModel):
    """Rotary embedding (Su et al. 2021) and its long-context scalings.

    `llama3` is Llama 3.1's frequency-dependent rule; `yarn` is Peng et al. 2023, equations 22 to 25; `longrope` is Ding et al.
    2024: a divisor for each frequency; `linear` divides every position by `factor`; `proportional` too, and where a part of a
    head turns, it turns by the first of the frequencies that a whole one would.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    theta: PositiveFloat = 10000.0
    rotary_dim: NonNegativeInt | None = None
    """Dimensions of a head that turn: i and i + head_dim / 2 for i below half of it. None is all, 0 is none (NoPE)."""
    scaling: Literal["none", "linear", "llama3", "yarn", "longrope", "proportional"] = "none"
    factor: PositiveFloat = 1.0
    original_max_position: PositiveInt | None = None
    low_freq_factor: PositiveFloat = 1.0
    high_freq_factor: PositiveFloat = 4.0
    beta_fast: PositiveFloat = 32.0
    beta_slow: PositiveFloat = 1.0
    truncate: bool = True
    """Whether under `yarn` the ramp between the two begins and ends at whole dimensions."""
    attention_factor: PositiveFloat | None = None
    """Multiplies cos and sin under `yarn`, where None means 0.1 ln(factor) + 1, and under `longrope`."""
    short_factors: tuple[PositiveFloat, ...] = ()
    """Of `longrope`: what each frequency is divided by where no sequence is longer than `original_max_position`."""
    long_factors: tuple[PositiveFloat, ...] = ()
    """Likewise where one may be: a model that is served for longer sequences computes the short ones with these, too."""

    @model_validator(mode="after")
    def _scaled_rope_names_its_origin(self) -> Rope:
        if self.scaling in ("llama3", "yarn", "longrope") and self.original_max_position is None:
            raise ValueError(f"rope scaling {self.scaling!r} needs original_max_position; the config gives none")
        if self.rotary_dim is not None and self.rotary_dim % 2:
            raise ValueError(f"rotary_dim must be even, got {self.rotary_dim}")
        return self

    def turning(self, head_dim: int) -> int:
        """Dimensions of a head of `head_dim` that turn."""
        return head_dim if self.rotary_dim is None else self.rotary_dim


class LayerShape(BaseModel):
    """Sizes of one layer, in elements."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_q_heads: PositiveInt
    num_kv_heads: PositiveInt
    head_dim: PositiveInt
    intermediate_size: PositiveInt
    keys_are_values: bool = False
    """Whether values are the keys before their norm, so that the layer projects none."""

    @model_validator(mode="after")
    def _heads_agree(self) -> LayerShape:
        if self.num_q_heads % self.num_kv_heads:
            raise ValueError(f"num_q_heads must be a multiple of num_kv_heads, got {self.num_q_heads} and {self.num_kv_heads}")
        if self.head_dim % 2:
            raise ValueError(f"head_dim must be even for RoPE, got {self.head_dim}")
        return self

    @property
    def q_size(self) -> int:
        return self.num_q_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        return self.num_kv_heads * self.head_dim


class Moe(BaseModel):
    """A mixture of experts in place of the feed-forward network, or beside it: each token goes to `num_experts_per_token` of
    `num_experts`.

    `softmax` scores are those of Shazeer et al. 2017 as Mixtral has them; `sigmoid` ones, with a bias that only chooses, and
    experts taken from the best `num_chosen_groups` of `num_groups`, are DeepSeek-V3's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_experts: PositiveInt
    num_experts_per_token: PositiveInt
    intermediate_size: PositiveInt
    """Of one expert."""
    scoring: Literal["softmax", "sigmoid"] = "softmax"
    normalized: bool = True
    """Whether the weights of the chosen experts are made to sum to 1."""
    scaling: PositiveFloat = 1.0
    """Multiplies the weights last."""
    num_groups: PositiveInt = 1
    num_chosen_groups: PositiveInt = 1
    shared_intermediate_size: NonNegativeInt = 0
    """Of the expert that every token goes to; 0 is none."""
    first_layer: NonNegativeInt = 0
    """Layers before it are dense."""
    router_bias: bool = False
    """Whether logits of a `softmax` have a bias. The one of `sigmoid` is another: it is added to scores."""
    expert_biases: bool = False
    """Whether each expert's gate and up, and its down, have biases."""
    expert_scales: bool = False
    """Whether each expert has a number that its weight under `softmax` is multiplied by last."""
    beside_dense: bool = False
    """Whether a layer has its feed-forward network, too. The router, the experts and the network then read the stream by norms
    of their own, and what experts and network make passes norms of their own before it is added."""
    rare_experts: tuple[tuple[NonNegativeInt, ...], ...] = ()
    """For each layer of the model the experts that stand in layer groups of their own, in ascending order, so that they can
    have another scheme than the others. Empty: none does, in any layer."""

    @model_validator(mode="after")
    def _experts_suffice(self) -> Moe:
        if self.num_experts_per_token > self.num_experts:
            raise ValueError(
                f"num_experts_per_token must be at most num_experts, got {self.num_experts_per_token} and {self.num_experts}"
            )
        if self.num_experts % self.num_groups or self.num_chosen_groups > self.num_groups:
            raise ValueError(
                "num_groups must divide num_experts and be at least num_chosen_groups, got "
                f"{self.num_groups}, {self.num_experts} and {self.num_chosen_groups}"
            )
        if self.router_bias and self.scoring != "softmax":
            raise ValueError(f"router_bias is of logits under softmax scoring, got {self.scoring}")
        if self.expert_scales and self.scoring != "softmax":
            raise ValueError(f"expert_scales are of weights under softmax scoring, got {self.scoring}")
        if self.beside_dense and self.shared_intermediate_size:
            raise ValueError(
                f"experts stand beside a dense network or beside a shared expert: with beside_dense, shared_intermediate_size "
                f"must be 0, got {self.shared_intermediate_size}"
            )
        for rare in self.rare_experts:
            if list(rare) != sorted(set(rare)) or len(rare) >= self.num_experts or any(e >= self.num_experts for e in rare):
                raise ValueError(
                    f"rare_experts of a layer must be some of {self.num_experts} experts, not all, from 0 on, in ascending "
                    f"order; got {rare}"
                )
        return self

    @property
    def routing(self) -> Literal["softmax", "softmax_scaled", "sigmoid"]:
        """How experts are chosen and weighed, as kernels/moe_route names it."""
        return "softmax_scaled" if self.expert_scales else self.scoring

    @property
    def routing_tensors(self) -> tuple[str, ...]:
        """What it reads beside logits, of the layer's `router`."""
        if self.scoring == "sigmoid":
            return ("bias",)
        return ("expert_scales",) if self.expert_scales else ()

    def linear_shapes(self, hidden_size: int, num_rare: int) -> dict[str, tuple[int, int]]:
        """The layer groups of the experts of a layer, `num_rare` of which stand apart -> (out_features, in_features)."""
        of_one = {
            "experts_gate_up": (2 * self.intermediate_size, hidden_size),
            "experts_down": (hidden_size, self.intermediate_size),
        }
        shapes = {kind: ((self.num_experts - num_rare) * rows, columns) for kind, (rows, columns) in of_one.items()}
        if num_rare:
            shapes |= {f"{RARE}{kind}": (num_rare * rows, columns) for kind, (rows, columns) in of_one.items()}
        return shapes

    def float_shapes(self, hidden_size: int) -> dict[str, tuple[int, ...]]:
        """Tensors of a layer's router and experts that no plan quantizes -> shape."""
        shapes: dict[str, tuple[int, ...]] = {"router.weight": (self.num_experts, hidden_size)}
        shapes |= {f"router.{name}": (self.num_experts,) for name in self.routing_tensors}
        if self.router_bias:
            shapes["router.logit_bias"] = (self.num_experts,)
        if self.expert_biases:
            shapes["experts_gate_up.bias"] = (self.num_experts * 2 * self.intermediate_size,)
            shapes["experts_down.bias"] = (self.num_experts * hidden_size,)
        if self.beside_dense:
            norms = ("router_norm", "mixture_norm", "mixture_post_norm", "dense_post_norm")
            shapes |= {f"{norm}.weight": (hidden_size,) for norm in norms}
        return shapes


class Mla(BaseModel):
    """Multi-head latent attention (DeepSeek-V2, section 2.1): the cache holds one latent and one rotated key for all heads.

    A query head has `nope_head_dim` dimensions that meet the latent and `rope_head_dim` that meet the rotated key.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kv_lora_rank: PositiveInt
    q_lora_rank: PositiveInt | None = None
    """None: queries are projected in one step."""
    nope_head_dim: PositiveInt
    rope_head_dim: PositiveInt
    v_head_dim: PositiveInt
    score_factor: PositiveFloat = 1.0
    """Multiplies the scores beside head_dim^-0.5: the square of DeepSeek's mscale where yarn stretches the context."""

    @property
    def cache_dim(self) -> int:
        """Elements that a token takes in the cache of one layer."""
        return self.kv_lora_rank + self.rope_head_dim
