"""Two bundles side by side as they are served: blocks of rounds of A B B A or B A A B, each block in two processes of its own.

What a process has for its whole life, such as where its memory lies, may make it faster than another of the same bundle. So
each block has new processes, coins decide which begins, and equal bundles can be exchanged: the premise of `FasterTest`.
Starting them takes longer than a round, so a block has several (decision 0053).
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import geometric_mean
from typing import Literal, get_args

from artifacts.reader import read_manifest
from optimizer.measure.served_steps import MeasuredBundle, Phase, num_seqs_at_once
from optimizer.measure.workload import Workload

#: "workload" is of one output token, with its share of its prompt
Of = Literal["workload", "decode", "prefill"]
OF: tuple[Of, ...] = ("workload", "decode", "prefill")
#: of a block; each has two samples of both bundles
NUM_ROUNDS = 4
_SAMPLE_MS = 60.0
_ORDERS = ((0, 1, 1, 0), (1, 0, 0, 1))


@dataclass(frozen=True)
class Block:
    """Milliseconds of both bundles, each the geometric mean of its samples."""

    other: Mapping[str, float]
    this: Mapping[str, float]

    def log_ratio(self, of: Of) -> float:
        """ln(ms of the other / ms of this one): above 0 where this one is faster."""
        return math.log(self.other[of] / self.this[of])


def measure_block(other: Path, this: Path, workload: Workload, coin: random.Random) -> Block:
    """One block of the two bundles. UserError where one cannot be loaded here."""
    folders = (other, this)
    with ExitStack() as processes:
        started: dict[int, MeasuredBundle] = {}
        for side in coin.sample((0, 1), 2):
            started[side] = MeasuredBundle(folders[side], workload)
            processes.callback(started[side].end)
        for process in started.values():
            process.wait_until_ready()
        samples: dict[tuple[int, Phase], list[float]] = defaultdict(list)
        for _ in range(NUM_ROUNDS):
            for phase in get_args(Phase):
                for side in coin.choice(_ORDERS):
                    samples[side, phase].append(started[side].ms(phase, _SAMPLE_MS))
    ms = {of: geometric_mean(found) for of, found in samples.items()}
    return Block(*(_of(folders[side], workload, ms[side, "decode"], ms[side, "prefill"]) for side in (0, 1)))


def _of(folder: Path, workload: Workload, decode_ms: float, prefill_ms: float) -> dict[str, float]:
    num_seqs = num_seqs_at_once(read_manifest(folder).serving, workload)
    token_ms = decode_ms / num_seqs + prefill_ms / workload.output_tokens
    return {"workload": token_ms, "decode": decode_ms / num_seqs, "prefill": prefill_ms}
