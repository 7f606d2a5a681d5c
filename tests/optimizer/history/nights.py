"""Invented nights."""

from __future__ import annotations

from typing import Any

import numpy as np

from optimizer.nights.night import Night, Ratio

REFERENCE = "f" * 64


def blocks(speed: float, rng: np.random.Generator, number: int = 12, spread: float = 0.01) -> Ratio:
    """Of a bundle that is `speed` times as fast as the reference."""
    return Ratio(log_ratios=tuple(float(x) for x in np.log(speed) + spread * rng.standard_normal(number)))


def night(number: int, speed: float, seed: int = 0, **changed: Any) -> Night:
    """The `number`-th night of a model."""
    rng = np.random.default_rng([seed, number])
    given: dict[str, Any] = {
        "model": "tiny",
        "time": f"2026-{1 + number // 28:02}-{1 + number % 28:02}T02:00:00Z",
        "verdict": "kept",
        "why": "no candidate was faster",
        "incumbent": "a" * 64,
        "reference": REFERENCE,
        "fingerprint": {"compiler": "g++ 13.2.0", "cpu_model": "a CPU"},
        "against_reference": {"decode": blocks(speed, rng)},
    }
    return Night(**(given | changed))
