"""Nights made of recorded noise: what finds a slowdown of 3 %, and what promotes a candidate that is 5 % better?

    python -m benchmarks.replayed_nights benchmarks/results/NAME.jsonl [--kind quartile] [--note TEXT] [--out FILE]

A night's blocks are drawn from the sessions that `benchmarks/record_noise.py` recorded, in two ways:

- `fresh`: each block from any session, as `coldforge retune` measures, which starts both bundles anew for each block. Its
  rounds are those that were recorded one after another;
- `one`: all blocks of a night from one session, as if a night kept its processes. Nights then differ as sessions do, by where
  memory lies and by what else the machine did.

Of the ratio to the reference a night keeps what `Ratio.value` is of its blocks. A slowdown multiplies the incumbent's times
from one night on. A candidate is the incumbent once more, with its times divided by what it is better; a coin says which of
the two it is.

An alarm is a night on which a method tells of a slowdown of which it did not tell on the night before.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from optimizer.evaluation.betting import Wealth
from optimizer.history.change_points import change_points
from optimizer.measure.faster import FasterTest
from optimizer.measure.served_blocks import NUM_ROUNDS
from optimizer.nights.night import Ratio
from optimizer.retune.speed import MOST_BLOCKS, REFERENCE_BLOCKS

Floats = NDArray[np.float64]
Processes = Literal["fresh", "one"]

NUM_NIGHTS, WITHIN_NIGHTS = 60, 3
SLOWDOWN, GAIN = 0.03, 0.05
#: nights before an injected slowdown, at least and at most
_FROM_NIGHT = (20, 50)
#: of the ratio to the reference, of each night
NUM_BLOCKS = (REFERENCE_BLOCKS, 36, MOST_BLOCKS)
_SAME_PLACE = 3
"""Nights by which a change point may wander as nights come in and still be the same."""


def read_sessions(path: Path, kind: str, against: str, note: str) -> Floats:
    """The incumbent's log ratio to the other (`itself` or `reference`): [sessions whose note has `note`, blocks]."""
    sessions = [json.loads(line) for line in path.read_text().splitlines()]
    found = [log_ratios(session[f"{against}_ms"][kind]) for session in sessions if note in session["note"]]
    return np.array([session[: min(map(len, found))] for session in found])


def log_ratios(blocks: Sequence[Sequence[float]]) -> Floats:
    """ln(ms of the other / ms of the incumbent), of geometric means of the two samples of each."""
    ms = np.log(np.asarray(blocks, np.float64))
    return np.asarray((ms[:, 2:].sum(axis=1) - ms[:, :2].sum(axis=1)) / 2)


def night_of(
    sessions: Floats, num_blocks: int, rng: np.random.Generator, processes: Processes, num_rounds: int = NUM_ROUNDS
) -> tuple[Floats, Floats]:
    """A night's blocks, each the mean of `num_rounds` that were recorded as blocks, and a coin for each pair of processes."""
    number, length = sessions.shape
    pairs = num_blocks if processes == "fresh" else 1
    session, coins = rng.integers(number, size=pairs), rng.choice((-1.0, 1.0), size=pairs)
    first = rng.integers(length - num_rounds + 1, size=num_blocks)
    rounds = sessions[np.broadcast_to(session, num_blocks)[:, None], first[:, None] + np.arange(num_rounds)]
    return rounds.mean(axis=1), np.broadcast_to(coins, num_blocks)


def series(
    sessions: Floats, num_blocks: int, rng: np.random.Generator, processes: Processes, slower_from: int | None
) -> Floats:
    """The incumbent's log ratio to the reference on each night."""
    blocks = (night_of(sessions, num_blocks, rng, processes)[0] for _ in range(NUM_NIGHTS))
    nights = np.log([Ratio(log_ratios=tuple(night)).value for night in blocks])
    if slower_from is not None:
        nights[slower_from:] -= np.log1p(SLOWDOWN)
    return nights


def otava_alarms(nights: Floats) -> list[int]:
    """Nights on which a change point is found that was not there before, whichever way it goes."""
    known: list[int] = []
    alarms = []
    for night in range(1, len(nights)):
        found = [point.index for point in change_points(nights[: night + 1].tolist())]
        if any(all(abs(index - one) > _SAME_PLACE for one in known) for index in found):
            alarms.append(night)
        known = found + known
    return alarms


def rank_alarms(nights: Floats, rarity: int = 10, begin: int = 10) -> list[int]:
    """A sequential test on the nights' ratios that needs no model of the noise.

    Without a change tonight's rank among all nights so far is as likely to be any as any other, so it is among the slowest 1 in
    `rarity` in 1 / `rarity` of nights; a gambler of `Wealth` bets that it is more often. One begins on each night, since the
    change may be on any; the alarm is given when their wealth in total reaches 100, which without a change takes 100
    nights on average at least (Shiryaev and Roberts). After an alarm all begin again.
    """
    alarms, gamblers, since = [], list[Wealth](), 0
    for night in range(1, len(nights)):
        before = nights[since:night]
        if len(before) < begin:
            continue
        rank = (1 + np.sum(before < nights[night])) / (len(before) + 1)
        gamblers.append(Wealth())
        for gambler in gamblers:
            gambler.bet(rarity * float(rank <= 1 / rarity) - 1.0)
        if sum(math.exp(gambler.log) for gambler in gamblers) >= 100:
            alarms.append(night)
            gamblers, since = [], night
    return alarms


def threshold_alarms(nights: Floats, threshold: float) -> list[int]:
    """Nights that are slower than the median of all before by more than `threshold`, and follow one that is not."""
    slow = [False, *(nights[n] < np.median(nights[:n]) - np.log1p(threshold) for n in range(1, len(nights)))]
    return [night for night in range(1, len(nights)) if slow[night] and not slow[night - 1]]


METHODS: Mapping[str, Callable[[Floats], list[int]]] = {
    "otava": otava_alarms,
    "ranks": rank_alarms,
    "5 %": lambda nights: threshold_alarms(nights, 0.05),
    "10 %": lambda nights: threshold_alarms(nights, 0.10),
}


def slowdowns(sessions: Floats, num_blocks: int, seeds: Iterable[int], processes: Processes) -> dict[str, dict[str, float]]:
    """Of each method the share of slowdowns found within `WITHIN_NIGHTS`, and of nights with a false alarm."""
    found, false, num_seeds = dict.fromkeys(METHODS, 0), dict.fromkeys(METHODS, 0), 0
    for seed in seeds:
        rng, num_seeds = np.random.default_rng(seed), num_seeds + 1
        begin = int(rng.integers(*_FROM_NIGHT))
        steady, slowed = (series(sessions, num_blocks, rng, processes, slower_from) for slower_from in (None, begin))
        for name, alarms in METHODS.items():
            false[name] += len(alarms(steady))
            found[name] += any(begin <= night < begin + WITHIN_NIGHTS for night in alarms(slowed))
    return {
        name: {"found": found[name] / num_seeds, "false": round(false[name] / (num_seeds * NUM_NIGHTS), 5)} for name in METHODS
    }


def promotions(sessions: Floats, gain: float, seeds: Iterable[int], processes: Processes) -> dict[str, dict[str, float]]:
    """Of the sequential test, and of thresholds on medians of 12 blocks: shares of nights that promote or cannot tell."""
    counts = {name: {"promoted": 0, "undecided": 0} for name in ("sequential test", "5 %", "10 %")}
    num_blocks, num_nights = 0, 0
    for seed in seeds:
        rng = np.random.default_rng(seed)
        for _ in range(NUM_NIGHTS):
            noise, coins = night_of(sessions, MOST_BLOCKS, rng, processes)
            blocks, test = coins * noise + np.log1p(gain), FasterTest()
            for ratio in blocks:
                if test.add(1.0, float(np.exp(-ratio))) != "undecided":
                    break
            counts["sequential test"]["promoted"] += test.verdict == "faster"
            counts["sequential test"]["undecided"] += test.verdict == "undecided"
            for name, threshold in (("5 %", 0.05), ("10 %", 0.10)):
                counts[name]["promoted"] += bool(np.median(blocks[:12]) > np.log1p(threshold))
            num_blocks += len(test.log_ratios)
            num_nights += 1
    shares = {name: {what: round(count / num_nights, 5) for what, count in own.items()} for name, own in counts.items()}
    shares["sequential test"]["blocks"] = round(num_blocks / num_nights, 1)
    return shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("noise", type=Path)
    parser.add_argument("--kind", choices=["mean", "quartile"], default="quartile", help="what stands for a sample")
    parser.add_argument("--note", default="", help="only sessions whose note has this")
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    seeds = range(arguments.seeds)
    reference, itself = (
        read_sessions(arguments.noise, arguments.kind, name, arguments.note) for name in ("reference", "itself")
    )
    result = {
        "noise": arguments.noise.name,
        "kind": arguments.kind,
        "note": arguments.note,
        "num_sessions": len(reference),
        "num_seeds": arguments.seeds,
        "spread": {"reference": described(reference), "itself": described(itself)},
    }
    for processes in get_args(Processes):
        result[processes] = {
            "slowdown": {f"{number} blocks": slowdowns(reference, number, seeds, processes) for number in NUM_BLOCKS},
            "promotion": {f"{100 * gain:g} % better": promotions(itself, gain, seeds, processes) for gain in (0.0, GAIN)},
        }
    text = json.dumps(result, indent=2) + "\n"
    print(text, end="")
    if arguments.out:
        arguments.out.write_text(text)


def described(sessions: Floats) -> dict[str, float]:
    """Spread of blocks within a session (by the median absolute deviation), and of sessions' medians."""
    within = [1.4826 * np.median(np.abs(blocks - np.median(blocks))) for blocks in sessions]
    between = np.std([np.median(blocks) for blocks in sessions], ddof=1)
    return {"within": round(float(np.median(within)), 4), "between": round(float(between), 4)}


if __name__ == "__main__":
    main()
