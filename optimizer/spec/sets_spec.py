"""The file of `coldforge evaluate`: what to ask and what to hold it to, as in model.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from optimizer.spec.evaluation_spec import EvaluationSpec
from optimizer.spec.model_spec import GateSpec
from optimizer.spec.section import Section
from search_spaces.located_yaml import Document


def load_sets_spec(path: Path) -> SetsSpec:
    """The file at `path`; LocatedError names file, line, rule, value and the nearest valid key."""
    return Document.load(path).validate(SetsSpec, context={"folder": path.absolute().parent})


class SetsSpec(Section):
    """`evaluation` and `gate` of a model.yaml. Nothing is searched, so all of each text is evaluated on."""

    evaluation: EvaluationSpec
    gate: GateSpec | None = None
    seed: Annotated[int, Field(ge=0, lt=1 << 32)] = 0

    @model_validator(mode="after")
    def _there_is_something_to_ask(self) -> Self:
        if not self.evaluation.text and not self.evaluation.sets:
            raise ValueError("evaluation must have text or sets, got neither; there is no model here to sample text from")
        return self

    @model_validator(mode="after")
    def _limits_have_text(self) -> Self:
        has_text = bool(self.evaluation.text) or any(one.format == "text" for one in self.evaluation.sets)
        if self.gate is not None and not has_text:
            raise ValueError("gate limits what is measured on text, and there is none; add evaluation.text, or remove gate")
        if self.gate is None and self.evaluation.text:
            raise ValueError("evaluation.text needs a limit; add gate: {max_perplexity_increase: 1%}, or another of its limits")
        return self
