"""Gemma 4, text alone (Google 2026): heads of two sizes, caches that layers share, and embeddings that each layer reads."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt

from artifacts.architecture import Architecture
from artifacts.layer_parts import LayerShape
from runtime.models.gemma4_experts import Gemma4ExpertsConfig
from runtime.models.hf_rope import read_rope
from runtime.models.unsupported import UnsupportedModel

_FULL, _SLIDING = "full_attention", "sliding_attention"
_PROPORTIONAL: dict[str, Any] = {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6}


class Gemma4TextConfig(Gemma4ExpertsConfig):
    max_position_embeddings: PositiveInt = 131072
    sliding_window: PositiveInt | None = 512
    attn_logit_softcapping: None = None
    final_logit_softcapping: NonNegativeFloat | None = None
    global_head_dim: PositiveInt = 512
    num_global_key_value_heads: PositiveInt | None = None
    per_layer_config: dict[int, dict[Literal["head_dim", "num_key_value_heads"], PositiveInt]] | None = None
    vocab_size_per_layer_input: PositiveInt = 262144
    hidden_size_per_layer_input: NonNegativeInt = 256
    attention_k_eq_v: bool = False
    num_kv_shared_layers: NonNegativeInt = 0
    use_double_wide_mlp: bool = False
    rope_parameters: dict[str, dict[str, Any]] | None = None  # type: ignore[assignment]
    layer_types: list[Literal["full_attention", "sliding_attention"]] | None = None  # type: ignore[assignment]

    def architecture(self) -> Architecture:
        kinds, own = self.kinds(), dict[str, Any](per_layer_size=self.hidden_size_per_layer_input)
        own |= {"query_scalar": 1.0, "qk_norm": True, "value_norm": True, "layer_scalars": True}
        own |= {"embedding_scale": 1.0, "embedding_factor": self.hidden_size**0.5}
        own |= {"layer_shapes": [self._shape(i) for i in range(len(kinds))], "layer_caches": self._caches(kinds)}
        full = read_rope(self._rope_of(_FULL), self._shape(len(kinds) - 1).head_dim, self.max_position_embeddings)
        own |= {"further_ropes": [full], "layer_ropes": [int(kind == _FULL) for kind in kinds]}
        return Architecture.model_validate(super().architecture().model_dump() | own)

    def kinds(self) -> list[str]:
        by_turns = [_SLIDING if (i + 1) % 6 else _FULL for i in range(self.num_hidden_layers)]
        return [*(self.layer_types or by_turns)[:-1], _FULL]

    def rope_parameters_given(self) -> dict[str, object]:
        return self._rope_of(_SLIDING)

    def _rope_of(self, kind: str) -> dict[str, object]:
        stated = (self.rope_parameters or {}).get(kind) or (_PROPORTIONAL if kind == _FULL else {"rope_theta": 1e4})
        return {"partial_rotary_factor": 1.0, "original_max_position_embeddings": self.max_position_embeddings} | stated

    def _shape(self, layer: int) -> LayerShape:
        is_full, shares = self.kinds()[layer] == _FULL, layer >= self.num_hidden_layers - self.num_kv_shared_layers
        sizes = {"head_dim": self.attention_head_dim(), "num_kv_heads": self.num_key_value_heads or self.num_attention_heads}
        if self.per_layer_config is not None:
            sizes |= {key.replace("key_value", "kv"): size for key, size in self.per_layer_config.get(layer, {}).items()}
        elif is_full:
            heads = self.num_global_key_value_heads if self.attention_k_eq_v else None
            sizes = {"head_dim": self.global_head_dim, "num_kv_heads": heads or sizes["num_kv_heads"]}
        sizes["intermediate_size"] = self.intermediate_size * (2 if shares and self.use_double_wide_mlp else 1)
        return LayerShape(num_q_heads=self.num_attention_heads, keys_are_values=is_full and self.attention_k_eq_v, **sizes)

    def _caches(self, kinds: list[str]) -> list[int]:
        """The last layers read the cache of the last layer of their kind before them."""
        first = max(0, len(kinds) - self.num_kv_shared_layers)
        owners = {kind: i for i, kind in enumerate(kinds[:first])}
        if missing := sorted(set(kinds) - owners.keys()):
            raise UnsupportedModel(f"num_kv_shared_layers must leave a layer of {missing[0]}, got {self.num_kv_shared_layers}")
        return [i if i < first else owners[kind] for i, kind in enumerate(kinds)] if self.num_kv_shared_layers else []

    def _refuse_what_is_unsupported(self) -> None:
        super()._refuse_what_is_unsupported()
        if self.hidden_size_per_layer_input and self.vocab_size_per_layer_input != self.vocab_size:
            raise UnsupportedModel(f"vocab_size_per_layer_input must be vocab_size, got {self.vocab_size_per_layer_input}")
