"""With how many threads a bundle is served here."""

from __future__ import annotations

from artifacts.manifest import Limits
from kernels.cpu.host import host


def num_threads_here(serving: Limits) -> int:
    """What the manifest says, at most this machine's cores. Results do not depend on it."""
    return min(serving.num_threads, host().num_cores)
