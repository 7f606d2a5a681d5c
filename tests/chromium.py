"""The browser of the tests that look at what people see."""

from __future__ import annotations

import os
import shutil

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def chromium() -> str:
    """$COLDFORGE_CHROMIUM, or a Chromium on PATH. Absent the test is skipped, unless CI=true."""
    found = os.environ.get("COLDFORGE_CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        reason = f"no Chromium: none of {', '.join(_NAMES)} is on PATH and COLDFORGE_CHROMIUM is not set"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found
