"""`evaluation` of a model.yaml: text and sets of items."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import AfterValidator, Field, PositiveInt, model_validator
from pydantic_core import PydanticKnownError

from optimizer.spec.section import ExistingPath, Section
from optimizer.spec.units import Fraction

#: format of a set -> the options that it takes beside name, margin and max_items
SET_OPTIONS = {
    "text": {"path"},
    "multiple_choice": {"path", "metric", "num_fewshot"},
    "gsm8k": {"path", "metric", "num_fewshot", "chat", "max_tokens"},
    "humaneval": {"path", "chat", "max_tokens"},
    "retrieval": {"chat", "context_tokens"},
    "tools": {"path", "metric", "max_tokens"},
    "chat_template": set[str](),
}


def _set_format(name: str) -> str:
    if name not in SET_OPTIONS:
        *others, last = map(repr, SET_OPTIONS)
        raise PydanticKnownError("literal_error", {"expected": f"{', '.join(others)} or {last}"})
    return name


class SetSpec(Section):
    """A set that finalists are proved on, against the unquantized model: `margin` below it is what the gate lets pass.

    Of a `text` the margin is a perplexity increase, and items are sequences; of `chat_template` all must be right.
    """

    format: Annotated[str, AfterValidator(_set_format)]
    path: ExistingPath | None = None
    name: str = Field(
        default_factory=lambda given: given["path"].stem if given.get("path") else given.get("format", "set"),
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$",
    )
    margin: Annotated[Fraction, Field(gt=0, lt=1)] = 0.02
    max_items: PositiveInt | None = None
    metric: str = ""
    num_fewshot: Annotated[int, Field(ge=0)] = 0
    chat: bool = False
    max_tokens: PositiveInt | None = None
    context_tokens: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (512, 1024, 2048)

    @model_validator(mode="after")
    def _options_belong_to_the_format(self) -> Self:
        options = SET_OPTIONS[self.format]
        limits = set() if self.format == "chat_template" else {"margin", "max_items"}
        if unknown := sorted(self.model_fields_set - options - limits - {"format", "name"}):
            raise ValueError(f"a set of format {self.format} takes {', '.join(sorted(options | limits))}; got {unknown[0]}")
        if "path" in options and self.path is None:
            raise ValueError(f"a set of format {self.format} needs path, its file")
        return self


class EvaluationSpec(Section):
    """What accuracy is measured on. Without `text`, on sequences sampled from the unquantized model itself.

    The search sees `num_sequences` of each text. Finalists are proved on others, as many at first and `max_sequences` at most
    (by default four times as many), and on `sets`.
    """

    text: tuple[ExistingPath, ...] = ()
    num_sequences: Annotated[int, Field(ge=4)] = 32
    max_sequences: PositiveInt | None = None
    tokens_per_sequence: Annotated[int, Field(ge=16)] = 256
    sets: tuple[SetSpec, ...] = ()

    @property
    def most_sequences(self) -> int:
        """That a finalist is proved on, of each text."""
        return self.max_sequences or 4 * self.num_sequences

    @model_validator(mode="after")
    def _more_are_not_fewer(self) -> Self:
        if self.max_sequences is not None and self.max_sequences < self.num_sequences:
            raise ValueError(
                f"max_sequences must be at least num_sequences, {self.num_sequences}, got {self.max_sequences}; raise it, or "
                "lower num_sequences"
            )
        return self

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [*(path.stem for path in self.text), *(one.name for one in self.sets)]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"sets and texts must have different names, got {twice[0]!r} twice; rename one")
        return self
