"""Timing on a machine that others share: candidates interleaved, so that a slow moment hits all of them."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np

K = TypeVar("K")


def interleaved_ms(
    actions: Mapping[K, Callable[[], object]],
    rounds: int = 7,
    min_round_ms: float = 4.0,
    on_round: Callable[[], object] = lambda: None,
) -> dict[K, list[float]]:
    """Milliseconds per call of each action, one sample a round, A B C A B C.

    A sample averages as many calls as fill `min_round_ms`. The order turns round by round, so that no candidate always runs
    behind the same neighbour.
    """
    repeats = {name: _calls_that_fill(action, min_round_ms) for name, action in actions.items()}
    samples: dict[K, list[float]] = {name: [] for name in actions}
    names = list(actions)
    collecting = gc.isenabled()
    gc.disable()
    try:
        for round_index in range(rounds):
            shift = round_index % len(names)
            for name in names[shift:] + names[:shift]:
                action, count = actions[name], repeats[name]
                begin = time.perf_counter_ns()
                for _ in range(count):
                    action()
                samples[name].append((time.perf_counter_ns() - begin) / count / 1e6)
            on_round()
    finally:
        if collecting:
            gc.enable()
    return samples


def typical_ms(samples: list[float]) -> float:
    """The lower quartile: noise on a shared machine only ever adds time, and the minimum is one lucky moment."""
    return float(np.quantile(samples, 0.25))


def _calls_that_fill(action: Callable[[], object], min_ms: float) -> int:
    action()  # the first call pays for page faults
    begin = time.perf_counter_ns()
    action()
    return max(1, round(min_ms * 1e6 / max(1, time.perf_counter_ns() - begin)))
