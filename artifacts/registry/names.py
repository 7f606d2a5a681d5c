"""What a registry's names look like."""

from __future__ import annotations

import re

from artifacts.errors import UserError

_PART = r"[a-z0-9][a-z0-9._-]*"
_NAME = re.compile(rf"{_PART}@{_PART}")
_DIGEST = re.compile(r"[0-9a-f]{8,64}")


class RegistryError(UserError):
    """A registry, or what is asked of it, breaks a rule of REGISTRY.md."""


def is_name(text: str) -> bool:
    """Whether `text` is written as a name is: MODEL@STAGE, such as smollm2@production."""
    return _NAME.fullmatch(text) is not None


def check_name(name: str) -> str:
    """`name`, if it may name a bundle of a registry; RegistryError otherwise."""
    if not is_name(name):
        raise RegistryError(
            "a name is MODEL@STAGE, such as smollm2@production, each part of a-z 0-9 . _ - beginning with a letter or digit; "
            f"got {name!r}"
        )
    return name


def is_digest(text: str) -> bool:
    """Whether `text` may be a bundle's digest, or its first 8 characters or more."""
    return _DIGEST.fullmatch(text) is not None
