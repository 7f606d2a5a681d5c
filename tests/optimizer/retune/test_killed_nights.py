"""kill -9 at 40 random moments of nights: the registry verifies, and the same command finishes."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest

from artifacts.registry import Registry
from optimizer.nights.gathering import nights_of_name
from optimizer.nights.night import EXIT_CODES
from tests.optimizer.conftest import SCHEMES
from tests.optimizer.retune.conftest import NAME, Nights
from tests.optimizer.retune.retuning import begin
from tests.optimizer.retune.test_nights import MOST_ACCURATE

NIGHTS, KILLS_A_NIGHT = 10, 4
#: two requests that want different plans, so that each night has a candidate to promote
REQUESTS: tuple[dict[str, Any], ...] = (MOST_ACCURATE, {**MOST_ACCURATE, "search": {"choice": "smallest", "trials": 4}})


@pytest.mark.slow
def test_a_night_that_is_killed(nights: Nights) -> None:
    choose, killed = random.Random(0), 0
    where = nights.project.spec_path, NAME, nights.registry.root, nights.project.folder / "night"
    whole_s = 8.0
    for turn in range(NIGHTS):
        nights.project.write(dict(REQUESTS[turn % 2]), SCHEMES)
        old = nights.production
        for _ in range(KILLS_A_NIGHT):
            night = begin(*where)
            time.sleep(choose.uniform(0.0, 1.0) * whole_s)
            night.kill()
            night.join()
            killed += night.exitcode == -9
            Registry.open(nights.registry.root).verify()
        after_kills, start = nights.production, time.monotonic()
        night = begin(*where)
        night.join(300)
        whole_s = time.monotonic() - start
        # The same command finishes, also where a killed one has promoted.
        expected = "promoted" if after_kills == old else "kept"
        assert night.exitcode == EXIT_CODES[expected]  # type: ignore[index]
        assert nights.production != old
        nights.registry.verify()
    assert killed >= NIGHTS * KILLS_A_NIGHT // 2
    assert [night.verdict for night in nights_of_name(nights.registry, NAME)].count("promoted") == NIGHTS
