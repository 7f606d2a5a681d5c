"""`generation` of a model.yaml: sampling of requests that set none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, PositiveInt, model_validator


class GenerationSpec(BaseModel):
    """What the bundle's generation_config.json says over the source's, under the names that it has there; None leaves it.

    A source often has none, and a model card's advice (a small model at temperature 1 talks nonsense) is then lost.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    max_new_tokens: PositiveInt | None = None

    @model_validator(mode="after")
    def _can_be_sampled_with(self) -> Self:
        """The rules are those of requests. Loaded only where something is stated: a specification is light."""
        if not self.stated():
            return self
        from runtime.request import SamplingParams

        SamplingParams(**{name: value for name, value in self.stated().items() if name != "max_new_tokens"})
        return self

    def stated(self) -> dict[str, Any]:
        """What is not None."""
        return self.model_dump(exclude_none=True)

    def over(self, source: Mapping[str, object]) -> dict[str, object]:
        """The source's generation_config with what is stated here; `do_sample` is for readers that are greedy without it."""
        greedy = {} if self.temperature is None else {"do_sample": self.temperature > 0}
        return {**source, **greedy, **self.stated()}
