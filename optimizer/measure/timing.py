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
    warm: bool = True,
) -> dict[K, list[float]]:
    """Milliseconds per call of each action, one sample a round, A B C A B C.

    A sample averages as many calls as fill `min_round_ms`. The order turns round by round, so that no candidate always runs
    behind the same neighbour. With `warm` every action runs once before anything counts, to pay for page faults.
    """
    repeats: dict[K, int] = {}
    samples: dict[K, list[float]] = {name: [] for name in actions}
    names = list(actions)
    collecting = gc.isenabled()
    gc.disable()
    try:
        for round_index in range(rounds):
            shift = round_index % len(names)
            for name in names[shift:] + names[:shift]:
                if name not in repeats:
                    if warm:
                        actions[name]()
                    once = _ms_of(actions[name], 1)
                    repeats[name] = max(1, round(min_round_ms / max(1e-6, once)))
                    if repeats[name] == 1:
                        samples[name].append(once)
                        continue
                samples[name].append(_ms_of(actions[name], repeats[name]))
            on_round()
    finally:
        if collecting:
            gc.enable()
    return samples


def typical_ms(samples: list[float]) -> float:
    """The lower quartile: noise on a shared machine only ever adds time, and the minimum is one lucky moment."""
    return float(np.quantile(samples, 0.25))


def _ms_of(action: Callable[[], object], count: int) -> float:
    begin = time.perf_counter_ns()
    for _ in range(count):
        action()
    return (time.perf_counter_ns() - begin) / count / 1e6
