"""What a decoder is, as data: enough to lay out its step program without any family's code."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator


class Rope(BaseModel):
    """Rotary embedding (Su et al. 2021) and its long-context scalings.

    `llama3` is Llama 3.1's frequency-dependent rule; `yarn` is Peng et al. 2023, equations 22 to 25;
    `linear` divides every position by `factor`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    theta: PositiveFloat = 10000.0
    scaling: Literal["none", "linear", "llama3", "yarn"] = "none"
    factor: PositiveFloat = 1.0
    original_max_position: PositiveInt | None = None
    low_freq_factor: PositiveFloat = 1.0
    high_freq_factor: PositiveFloat = 4.0
    beta_fast: PositiveFloat = 32.0
    beta_slow: PositiveFloat = 1.0
    attention_factor: PositiveFloat | None = None
    """Multiplies cos and sin under `yarn`; None means 0.1 ln(factor) + 1."""

    @model_validator(mode="after")
    def _scaled_rope_names_its_origin(self) -> Rope:
        if self.scaling in ("llama3", "yarn") and self.original_max_position is None:
            raise ValueError(f"rope scaling {self.scaling!r} needs original_max_position; the config gives none")
        return self


class Architecture(BaseModel):
    """A pre-norm decoder: RMSNorm, grouped-query attention with RoPE, SwiGLU.

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
    tie_embeddings: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    qk_norm: bool = False
    layer_windows: tuple[int, ...] = Field(default=())
    """Sliding window of each layer: a query sees the last `window` positions, itself included; 0 is full attention.
    Empty means full attention everywhere."""

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
        return self

    @property
    def q_size(self) -> int:
        return self.num_q_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        return self.num_kv_heads * self.head_dim

    def window(self, layer: int) -> int:
        """Sliding window of `layer` in tokens, 0 for full attention."""
        return self.layer_windows[layer] if self.layer_windows else 0

    def linear_shapes(self) -> dict[str, tuple[int, int]]:
        """Every layer group that a precision plan covers -> (out_features, in_features), in step order.

        q/k/v are one group and gate/up are one group: engines fuse them, so they share a scheme.
        A tied head has no group of its own: it reads `embed`.
        """
        shapes = {"embed": (self.vocab_size, self.hidden_size)}
        for i in range(self.num_layers):
            shapes[f"layers.{i}.qkv"] = (self.q_size + 2 * self.kv_size, self.hidden_size)
            shapes[f"layers.{i}.o"] = (self.hidden_size, self.q_size)
            shapes[f"layers.{i}.gate_up"] = (2 * self.intermediate_size, self.hidden_size)
            shapes[f"layers.{i}.down"] = (self.hidden_size, self.intermediate_size)
        if not self.tie_embeddings:
            shapes["head"] = (self.vocab_size, self.hidden_size)
        return shapes

    def float_shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor that stays fp32 (norm gains, biases) -> shape."""
        shapes: dict[str, tuple[int, ...]] = {"final_norm.weight": (self.hidden_size,)}
        for i in range(self.num_layers):
            shapes[f"layers.{i}.attn_norm.weight"] = (self.hidden_size,)
            shapes[f"layers.{i}.mlp_norm.weight"] = (self.hidden_size,)
            if self.qkv_bias:
                shapes[f"layers.{i}.qkv.bias"] = (self.q_size + 2 * self.kv_size,)
            if self.output_bias:
                shapes[f"layers.{i}.o.bias"] = (self.hidden_size,)
            if self.qk_norm:
                shapes[f"layers.{i}.q_norm.weight"] = (self.head_dim,)
                shapes[f"layers.{i}.k_norm.weight"] = (self.head_dim,)
        return shapes
