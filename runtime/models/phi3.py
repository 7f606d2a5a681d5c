"""Phi-3 and Phi-4-mini (Abdin et al. 2024): q, k, v and gate, up in one tensor each, heads that turn in part, LongRoPE."""

from __future__ import annotations

from typing import ClassVar

from pydantic import PositiveFloat, PositiveInt

from runtime.models.hf_config import HfConfig


class Phi3Config(HfConfig):
    turns_partly: ClassVar[bool] = True

    max_position_embeddings: PositiveInt = 4096
    original_max_position_embeddings: PositiveInt | None = 4096
    rms_norm_eps: PositiveFloat = 1e-5
    sliding_window: PositiveInt | None = None

    def layer_windows(self) -> tuple[int, ...]:
        return (self.sliding_window,) * self.num_hidden_layers if self.sliding_window else ()

    def rope_parameters_given(self) -> dict[str, object]:
        """Older configs call LongRoPE `su` or `yarn`."""
        given = super().rope_parameters_given()
        kind = given.pop("type", None)
        kind = given.get("rope_type", kind) or "default"
        return given | {"rope_type": "longrope" if kind in ("su", "yarn") else kind}
