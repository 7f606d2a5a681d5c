"""What the families share in reading a Hugging Face config.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt

from artifacts.architecture import Architecture
from artifacts.layer_parts import Mla, Moe, Rope
from runtime.models.hf_rope import read_rope
from runtime.models.unsupported import UnsupportedModel

#: transformers' names of the one activation there is
_SILU = ("silu", "swish")


class HfConfig(BaseModel):
    """The keys that every family reads; a family subclasses it with its own keys and transformers' defaults for them.

    Keys that do not change the computation (dropout, cache, initializer) are ignored.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    turns_partly: ClassVar[bool] = False
    """Whether the family reads partial_rotary_factor."""

    model_type: str
    vocab_size: PositiveInt
    hidden_size: PositiveInt
    intermediate_size: PositiveInt
    num_hidden_layers: PositiveInt
    num_attention_heads: PositiveInt
    num_key_value_heads: PositiveInt | None = None
    head_dim: PositiveInt | None = None
    max_position_embeddings: PositiveInt = 2048
    rms_norm_eps: PositiveFloat = 1e-6
    tie_word_embeddings: bool = False
    hidden_act: str = "silu"
    rope_theta: PositiveFloat = 10000.0
    rope_parameters: dict[str, object] | None = None
    rope_scaling: dict[str, object] | None = None
    partial_rotary_factor: float | None = None
    original_max_position_embeddings: PositiveInt | None = None

    def architecture(self) -> Architecture:
        """The architecture described; UnsupportedModel where the config asks for something the runtime does not do."""
        self._refuse_what_is_unsupported()
        return Architecture(
            family=self.model_type,
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_layers=self.num_hidden_layers,
            num_q_heads=self.num_attention_heads,
            num_kv_heads=self.num_key_value_heads or self.num_attention_heads,
            head_dim=self.attention_head_dim(),
            max_position=self.max_position_embeddings,
            rms_norm_eps=self.rms_norm_eps,
            rope=self.rope(self.rope_parameters_given()),
            tie_embeddings=self.tie_word_embeddings,
            qkv_bias=self.has_qkv_bias(),
            output_bias=self.has_output_bias(),
            qk_norm=self.has_qk_norm(),
            layer_windows=self.layer_windows(),
            moe=self.moe(),
            mla=self.mla(),
        )

    def rope(self, parameters: Mapping[str, object]) -> Rope:
        """The rotary embedding that `parameters` describe, in the form of transformers 5."""
        found = read_rope(parameters, self.attention_head_dim(), self.max_position_embeddings)
        if found.rotary_dim is not None and not self.turns_partly:
            raise UnsupportedModel(
                f"partial_rotary_factor must be 1 for {self.model_type}, got {parameters['partial_rotary_factor']}"
            )
        return found

    def attention_head_dim(self) -> int:
        return self.head_dim or self.hidden_size // self.num_attention_heads

    def has_qkv_bias(self) -> bool:
        return False

    def has_output_bias(self) -> bool:
        return False

    def has_qk_norm(self) -> bool:
        return False

    def has_mlp_bias(self) -> bool:
        """Whether the config asks for one; most families do not read the key."""
        return False

    def layer_windows(self) -> tuple[int, ...]:
        """Sliding window of each layer in tokens, 0 for full attention; empty when no layer has one."""
        return ()

    def moe(self) -> Moe | None:
        """The mixture of experts, None where all layers are dense."""
        return None

    def mla(self) -> Mla | None:
        """Latent attention, None for grouped queries."""
        return None

    def rope_parameters_given(self) -> dict[str, object]:
        """One dict in the form of transformers 5, with transformers' precedence between it and the top-level keys."""
        defaults = {
            "rope_theta": self.rope_theta,
            "partial_rotary_factor": 1.0 if self.partial_rotary_factor is None else self.partial_rotary_factor,
            "original_max_position_embeddings": self.max_position_embeddings,
        }
        given = {k: v for k, v in (self.rope_scaling or self.rope_parameters or {}).items() if v is not None}
        if self.original_max_position_embeddings is not None:
            given["original_max_position_embeddings"] = self.original_max_position_embeddings
        return defaults | given

    def _refuse_what_is_unsupported(self) -> None:
        if self.hidden_act not in _SILU:
            raise UnsupportedModel(f"hidden_act must be 'silu', got {self.hidden_act!r}")
        if self.has_mlp_bias():
            raise UnsupportedModel("mlp_bias must be false: the decoder's gate, up and down projections have no bias")
