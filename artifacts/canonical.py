"""The one byte form of the JSON in a bundle, and the path rule of its files."""

from __future__ import annotations

import json
import re

from artifacts.errors import PathRuleError

_PATH = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9._-]*/)*[A-Za-z0-9_][A-Za-z0-9._-]*")


def canonical_json(value: object) -> bytes:
    """`value` as ASCII JSON: keys sorted, two-space indent, one final newline, no NaN or infinity (ValueError)."""
    return json.dumps(value, sort_keys=True, indent=2, allow_nan=False).encode("ascii") + b"\n"


def check_path(path: str) -> str:
    """`path`, if it may name a file of a bundle; PathRuleError otherwise."""
    if _PATH.fullmatch(path) is None:
        raise PathRuleError(
            "a bundle's file name is relative, parts joined by '/', each of A-Z a-z 0-9 . _ - and not starting with "
            f"'.' or '-'; got {path!r}; rename the file",
            path,
        )
    return path
