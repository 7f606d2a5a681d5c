"""Fits the constants of the matmul time model to part of the tuned files for H100; prints them.

    python benchmarks/fit_ranker.py FOLDER [--steps 25]

The winner of each problem should have the least predicted time: what is maximized is its likelihood under a softmax over the
grid of -sharpness x log(time), the sharpness fitted too. Constants are drawn towards their present values (a standard
deviation of 0.3 in the logarithm, 0.05 for preferences), so those that tiles say little about stay physical.
About ten minutes on one core.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from ranker_agreement import facts, fitted_files, grid
from scipy.optimize import minimize
from tuned_files import Tuned, read_tuned

from optimizer.cost.gpu.constants import FITTED, Constants
from optimizer.cost.gpu.matmul_time import times_us
from optimizer.cost.gpu.resources import Tiles

#: added rather than multiplied when they change
_PREFERENCES = ("short_k", "two_stages", "four_stages", "five_stages")
#: not seen by an H100
_FROZEN = ("tensor_memory_wait_cycles", "synchronous_efficiency")
_NAMES = [name for name in asdict(FITTED) if name not in _FROZEN]
_PULL = 0.001


def moved(point: NDArray[np.float64]) -> Constants:
    """The constants at `point`, in standard deviations from the present ones; its last element is the sharpness."""
    values = asdict(FITTED)
    for name, step in zip(_NAMES, point[:-1].tolist(), strict=True):
        values[name] = values[name] + 0.05 * step if name in _PREFERENCES else values[name] * float(np.exp(0.3 * step))
    return Constants(**values)


def loss(point: NDArray[np.float64], winners: list[Tuned], tiles: Tiles) -> float:
    constants, sharpness = moved(point), 5.0 * np.exp(0.3 * point[-1])
    total = 0.0
    for tuned in winners:
        us = sum(times_us(problem, tiles, facts(tuned.device), constants=constants) for problem in tuned.problems)
        score = -sharpness * np.log(us)
        best = score.max()
        total -= max(score[tiles.tiles.index(tuned.winner)] - best - np.log(np.exp(score - best).sum()), -20.0)
    return total / len(winners) + _PULL * float(point @ point)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--every", type=int, default=2, help="use one of so many winners")
    arguments = parser.parse_args()
    everything = read_tuned(arguments.folder)
    files, tiles = fitted_files(everything), Tiles(grid("h100"))
    winners = [tuned for tuned in everything if tuned.file in files and tuned.winner in tiles.tiles][:: arguments.every]
    start = np.zeros(len(_NAMES) + 1)
    print(f"{len(winners)} winners of {len(files)} files, loss {loss(start, winners, tiles):.4f}", flush=True)
    found = minimize(
        loss,
        start,
        args=(winners, tiles),
        method="L-BFGS-B",
        options={"maxiter": arguments.steps, "maxfun": 10**6, "eps": 1e-3},
        callback=lambda point: print(f"{loss(point, winners, tiles):.4f}", flush=True),
    )
    for name, value in asdict(moved(found.x)).items():
        print(f"    {name}: float = {value:.3g}")


if __name__ == "__main__":
    main()
