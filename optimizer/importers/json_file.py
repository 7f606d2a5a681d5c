"""A JSON object in a file of a model's folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from optimizer.importers.errors import DamagedFile, MissingFile


def read_json(path: Path, *, required: bool = True) -> dict[str, Any]:
    """Empty where the file is not there and need not be. Raises MissingFile and DamagedFile."""
    if not path.exists():
        if required:
            raise MissingFile(f"{path} is not there; a Hugging Face folder needs it")
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DamagedFile(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise DamagedFile(f"{path} must hold a JSON object, it holds a {type(content).__name__}")
    return content
