"""Items from a file: one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from artifacts.errors import UserError
from artifacts.text_file import read_text


def read_items(path: Path, fields: Mapping[str, type]) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file, each with `id`, the number of its line from 0, unless it has one.

    Raises UserError that names file, line and field where one of `fields` is missing or of another type, or a line is no
    object: a file that was cut in the middle of a line is refused.
    """
    items: list[dict[str, Any]] = []
    for number, line in enumerate(read_text(path, "a set").splitlines()):
        if not line.strip():
            continue
        where = f"{path}:{number + 1}"
        try:
            item = json.loads(line)
        except ValueError as error:
            raise UserError(f"{where}: must be one JSON object, got {line[:60]!r}: {error}") from error
        if not isinstance(item, dict):
            raise UserError(f"{where}: must be one JSON object, got {line[:60]!r}")
        for name, kind in fields.items():
            if not isinstance(item.get(name), kind):
                raise UserError(f"{where}: {name} must be there and of type {kind.__name__}, got {item.get(name)!r:.60}")
        items.append({"id": str(number), **item})
    return items
