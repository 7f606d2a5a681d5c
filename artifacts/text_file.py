"""Text files that users name."""

from __future__ import annotations

from pathlib import Path

from artifacts.errors import UserError


def read_text(path: Path, what: str) -> str:
    """The text of `what`, a UTF-8 file. UserError names it where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{what} must be a readable UTF-8 file; {path}: {error}") from error
