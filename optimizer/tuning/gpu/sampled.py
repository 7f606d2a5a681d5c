"""Points of a space that is too large to enumerate: a tree-structured Parzen estimator over the time model."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite

import optuna

from optimizer.tuning.gpu.grid import PointGrid

#: A grid of more points is sampled. A point costs 2 us where all are timed at once and a trial 3 ms, so that 256 trials take
#: as long as enumerating 400,000 points, which also needs some 200 MB of arrays. No op's own parameters reach 20,000.
LARGEST_GRID = 400_000
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
