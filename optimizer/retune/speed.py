"""How fast bundles are beside each other tonight, block by block, each a record of the night."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any, Literal

from artifacts.reader import read_manifest
from optimizer.evaluation.betting import Wealth
from optimizer.measure.faster import FALSE_PROMOTION, GAIN, FasterTest, Verdict
from optimizer.measure.served_blocks import OF, Block, measure_block
from optimizer.measure.workload import Workload
from optimizer.nights.night import Night, Ratio
from optimizer.records.ledger import Ledger
from optimizer.records.progress import Reporter
from optimizer.records.record_key import record_key

#: after so many a comparison that cannot tell ends
MOST_BLOCKS = 120
#: against the reference: as many as one sided test needs, at least, to call the incumbent slower
REFERENCE_BLOCKS = 12
NOISE_BLOCKS = 8
#: what a candidate must show; where the incumbent is not what is asked for, that it costs no more than `GAIN`
Need = Literal["faster", "no slower"]
MeasureBlock = Callable[[Path, Path, Workload, random.Random], Block]


@dataclass(frozen=True)
class Speeds:
    """`night` is when; `measure` is what measures a block."""

    ledger: Ledger
    night: str
    workload: Workload
    reporter: Reporter
    measure: MeasureBlock = measure_block

    def beside(self, other: Path, this: Path, num_blocks: int, title: str) -> dict[str, Ratio]:
        """How much faster `this` is than `other`."""
        blocks = self._blocks(other, this)
        with self.reporter.task(title, num_blocks) as advance:
            found = []
            for _ in range(num_blocks):
                found.append(next(blocks))
                advance()
        return ratios(found)

    def judged(self, incumbent: Path, candidate: Path, need: Need) -> tuple[Verdict, dict[str, Ratio]]:
        """Whether `candidate` is faster than `incumbent` or, where it need be no slower, the other way round."""
        test, found = FasterTest(), list[Block]()
        blocks = self._blocks(incumbent, candidate)
        with self.reporter.task("candidate against incumbent, blocks at most", MOST_BLOCKS) as advance:
            while test.verdict == "undecided" and len(found) < MOST_BLOCKS:
                block = next(blocks)
                found.append(block)
                both = block.other["workload"], block.this["workload"]
                test.add(*(both if need == "faster" else both[::-1]))
                advance()
        return test.verdict, ratios(found)

    def _blocks(self, other: Path, this: Path) -> Iterator[Block]:
        coin = random.Random()
        digests = [read_manifest(folder).digest for folder in (other, this)]
        for number in count():
            key = record_key(f"block/{number}", night=self.night, bundles=digests, workload=self.workload)
            record: dict[str, Any] = self.ledger.once(key, lambda: asdict(self.measure(other, this, self.workload, coin)))
            yield Block(**record)


def ratios(blocks: Sequence[Block]) -> dict[str, Ratio]:
    """Their log ratios, by what they are of."""
    return {of: Ratio(log_ratios=tuple(block.log_ratio(of) for block in blocks)) for of in OF}


def slower_than_before(today: Ratio, before: Sequence[float]) -> str:
    """How the ratio to the reference has fallen by more than `GAIN` from what it was on the nights before; empty if not.

    By signs alone, as `FasterTest`: wrong in 1 % of nights at most if the level of the nights before is right.
    """
    if not before:
        return ""
    level, wealth = median(before), Wealth()
    for ratio in today.log_ratios:
        wealth.bet(1.0 if ratio < math.log(level) - math.log1p(GAIN) else -1.0)
    if not wealth.rejects(FALSE_PROMOTION):
        return ""
    return f"its speed against the reference is {today.value:.3f} x and was {level:.3f} x on {len(before)} nights before"


def nights_before(nights: Sequence[Night], digest: str, reference: str) -> list[float]:
    """What the bundle of `digest` was against the same reference."""
    return [
        night.against_reference["workload"].value
        for night in nights
        if night.reference == reference and "workload" in night.against_reference and night.measured == digest
    ]
