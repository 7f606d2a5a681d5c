"""self_test.json: prompts, and what the bundle answers to them wherever it works as it did when it was made."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError

from artifacts.canonical import canonical_json
from artifacts.errors import ContentError
from artifacts.manifest import Sha256

SELF_TEST_NAME = "self_test.json"

_TokenIds = Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RecordedPrompt(_Record):
    """A prompt, and the tokens that follow it when each time the likeliest is taken, ends of sequence among them.

    `logits_sha256` is of the logits that chose them, fp32, little endian, [tokens of the answer, vocabulary]. It is None where
    bits depend on more than the bundle: those of the portable references follow from torch, too.
    """

    prompt: _TokenIds
    answer: _TokenIds
    logits_sha256: Sha256 | None = None


class SelfTest(_Record):
    prompts: Annotated[tuple[RecordedPrompt, ...], Field(min_length=1)]

    def to_bytes(self) -> bytes:
        """The content of the file."""
        return canonical_json(self.model_dump(mode="json"))

    @classmethod
    def parse(cls, data: bytes) -> SelfTest:
        """Of the file's content; ContentError."""
        try:
            return cls.model_validate_json(data, strict=True)
        except ValidationError as error:
            fault = error.errors()[0]["msg"]
            raise ContentError(f"{SELF_TEST_NAME}: {fault}; build the bundle again", SELF_TEST_NAME) from error
