"""Points of a space that is too large to enumerate: a tree-structured Parzen estimator over the time model."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite

import optuna

from optimizer.tuning.gpu.grid import PointGrid

#: A grid of more points is sampled. Timing all of it takes 1 us a point for a matrix product and 20 us for attention, and 256
#: trials take 0.8 s (one core here): from about 40,000 points of attention, or 800,000 of a product, trials are faster.
#: Whatever an op's own parameters can make (10,240 points for scaled_matmul) is enumerated: its best is found for certain.
LARGEST_GRID = 100_000
_NUM_TRIALS = 256
_SEED = 0


def sampled(grid: PointGrid, time_us: Callable[[dict[str, int]], float | None]) -> list[tuple[float, dict[str, int]]]:
    """(time, point) of distinct points that `time_us` has a time for, fastest first; the same on every run.

    Akiba et al. 2019, Optuna; Bergstra et al. 2011, Algorithms for Hyper-Parameter Optimization (TPE).
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    found: dict[tuple[int, ...], float] = {}

    def objective(trial: optuna.Trial) -> float:
        point = {name: trial.suggest_categorical(name, values) for name, values in grid.parameters}
        time = time_us(point)
        if time is None or not isfinite(time):
            raise optuna.TrialPruned
        found[tuple(point.values())] = time
        return time

    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=_SEED))
    study.optimize(objective, n_trials=_NUM_TRIALS)
    names = [name for name, _ in grid.parameters]
    return [(time, dict(zip(names, values, strict=True))) for values, time in sorted(found.items(), key=lambda item: item[1])]
