"""What a record is kept under: its name, and a digest of all that its value depends on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, is_dataclass
from importlib.metadata import version

from pydantic import BaseModel


def record_key(name: str, **depends_on: object) -> str:
    """`name`, then 16 digits of the sha256 of `depends_on` and of this package's version.

    Values are what JSON has, pydantic models, and dataclasses of these; TypeError for any other.
    """
    content = json.dumps({"": version("coldforge"), **depends_on}, sort_keys=True, default=_plain)
    return f"{name}/{hashlib.sha256(content.encode()).hexdigest()[:16]}"


def _plain(value: object) -> object:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(f"a record depends on plain data, got {type(value).__name__}")
