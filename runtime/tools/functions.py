"""The functions that a request offers to the model."""

from __future__ import annotations

import secrets
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

#: what a function without `parameters` takes
NO_PARAMETERS: Mapping[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
_LETTERS = string.ascii_letters + string.digits


@dataclass(frozen=True)
class Function:
    """`parameters` is the JSON schema of its arguments, an object; `path` is where the request has it."""

    name: str
    parameters: Mapping[str, Any] = field(default_factory=lambda: NO_PARAMETERS)
    path: str = "tools"


@dataclass(frozen=True)
class Functions:
    """`max_calls` is how many calls an answer may have, None for any number."""

    all: Sequence[Function]
    max_calls: int | None = None

    def named(self, name: str) -> Function | None:
        return next((function for function in self.all if function.name == name), None)


def new_id() -> str:
    """What a call's result is sent under."""
    return "call_" + random_letters(24)


def random_letters(count: int) -> str:
    return "".join(secrets.choice(_LETTERS) for _ in range(count))
