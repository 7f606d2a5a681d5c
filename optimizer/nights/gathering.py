"""Reads nights: of a name in a registry, or of files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from artifacts.errors import UserError
from artifacts.registry import Registry
from optimizer.nights.night import Night

RESULT = "result.json"


def nights_of_name(registry: Registry, name: str) -> list[Night]:
    """The nights that the registry keeps of `name`, the latest last: evidence of its events that is a result.json."""
    found: dict[str, Night] = {}
    for event in registry.events():
        if event.name == name and event.evidence is not None and event.evidence not in found:
            night = _parsed(registry.evidence(event) or b"")
            # Evidence that a person gave may be anything.
            if isinstance(night, Night):
                found[event.evidence] = night
    return list(found.values())


def nights_of_files(paths: Iterable[Path]) -> list[Night]:
    """Of files, and of every result.json below folders. UserError names one that is no night's result."""
    files = [file for path in paths for file in (sorted(path.rglob(RESULT)) if path.is_dir() else [path])]
    found: dict[bytes, Night] = {}
    for file in files:
        try:
            data = file.read_bytes()
        except OSError as error:
            raise UserError(f"the result of a night must be a readable file; {file}: {error}") from error
        night = _parsed(data)
        if not isinstance(night, Night):
            raise UserError(f"{file} must be the {RESULT} of a night, as coldforge retune writes it: {night}; leave it out")
        found[data] = night
    return list(found.values())


def _parsed(data: bytes) -> Night | str:
    """The night, or in one line why `data` is none."""
    try:
        return Night.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc'])) or 'it'}: {first['msg']}"
