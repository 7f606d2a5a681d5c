"""The peaks of a machine as `coldforge bench --json` wrote them down."""

from __future__ import annotations

import json
import math
from dataclasses import fields
from pathlib import Path

from artifacts.errors import UserError
from artifacts.text_file import read_text
from runtime.bench.bound import Peaks


def read_peaks(path: Path) -> Peaks:
    """UserError unless the file has measured peaks."""
    try:
        figures = json.loads(read_text(path, "a file of peaks"))
        given = figures.get("peaks") or figures["decode"]["peaks"]
        peaks = {field.name: float(given[field.name]) for field in fields(Peaks)}
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{path}: a file of peaks must be what coldforge bench --profile BUNDLE --json FILE writes; this has no peaks"
        ) from error
    if not all(math.isfinite(peak) and peak > 0 for peak in peaks.values()):
        raise UserError(f"{path}: peaks must be above 0, got {peaks}; measure them again with coldforge bench")
    return Peaks(**peaks)
