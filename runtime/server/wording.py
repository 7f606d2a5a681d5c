"""What clients sent, as it may stand in a message or a line of the log: escaped, on one line, and short."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

_LONGEST = 64
_PLAIN_NAME = re.compile(rf"[\w-]{{1,{_LONGEST}}}", re.ASCII)


def shown(value: object) -> str:
    """A JSON value in at most about 100 characters. Lists and objects are only counted."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return f"an object of {len(value)}"
    if isinstance(value, str):
        # repr escapes what is not printable: line breaks, terminal codes, halves of surrogate pairs.
        return repr(value) if len(value) <= _LONGEST else f"{value[:_LONGEST]!r}... ({len(value)} characters)"
    if isinstance(value, Sequence):
        return f"a list of {len(value)}"
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}... ({len(text)} characters)"


def shown_name(name: str | int) -> str:
    """A field's name or a place in a list: as it is if it is a plain word, else as `shown`."""
    return str(name) if isinstance(name, int) or _PLAIN_NAME.fullmatch(name) else shown(name)


def listed(names: Sequence[str], most: int = 8) -> str:
    """The first few of `names`, and how many more there are."""
    few = ", ".join(shown_name(name) for name in names[:most])
    return few if len(names) <= most else f"{few} and {len(names) - most} more"
