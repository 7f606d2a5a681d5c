"""What time it is, or is said to be."""

from __future__ import annotations

import os
from datetime import UTC, datetime

from artifacts.errors import UserError

_VARIABLE = "SOURCE_DATE_EPOCH"


def utc_now() -> str:
    """UTC, as 2026-12-01T02:00:00Z: now, or the moment of $SOURCE_DATE_EPOCH, so that a replay writes the same bytes.

    (https://reproducible-builds.org/specs/source-date-epoch/)
    """
    said = os.environ.get(_VARIABLE)
    if said is not None and not said.isdecimal():
        raise UserError(f"{_VARIABLE} must be whole seconds since 1970, got {said!r}; correct it or unset it")
    moment = datetime.now(UTC) if said is None else datetime.fromtimestamp(int(said), UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
