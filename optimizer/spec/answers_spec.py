"""`answers` of a model.yaml: the formats of tool calls and thoughts, where the chat template does not show them."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from optimizer.spec.section import Section


class AnswersSpec(Section):
    """Names of formats, as `serve --tool-format` and `--reasoning-format` take them; None: as the chat template shows."""

    tools: str | None = None
    reasoning: str | None = None

    @model_validator(mode="after")
    def _are_known(self) -> Self:
        """Loaded only where something is stated: a specification is light."""
        if self.tools is not None:
            from runtime.tools import formats

            formats.named(self.tools)
        if self.reasoning is not None:
            from runtime.answer import reasoning

            reasoning.named(self.reasoning)
        return self
