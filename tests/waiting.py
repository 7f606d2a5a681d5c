"""Wait for what a test expects, not for a time: machines differ, and neighbours come and go."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_for(condition: Callable[[], object], timeout_s: float = 60.0) -> None:
    """Until it holds. AssertionError after `timeout_s`, which is only for what never comes."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"waited {timeout_s:g} s in vain"
        time.sleep(0.01)
