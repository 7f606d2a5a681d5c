from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from artifacts.precision import Scheme
from optimizer.records.ledger import Ledger
from optimizer.records.progress import Reporter
from optimizer.search.sensitivity import Probes, measure_sensitivities, predict_kl

COARSE, FINE, A8 = (Scheme.parse(name) for name in ("int4-g64-sym", "int8", "int8-a8"))
ERRORS = {COARSE: 0.10, FINE: 0.01, Scheme.parse("fp32"): 0.0, A8: 0.01, Scheme.parse("int4-g32-asym-a8"): 0.05}


def test_probes_are_the_coarsest_weights_and_the_finest_under_int8_activations() -> None:
    assert Probes.among(ERRORS) == Probes(COARSE, A8)
    assert Probes.among([FINE]) == Probes(FINE, None)
    assert Probes.among([A8]) == Probes(A8, A8)


@pytest.mark.parametrize(("name", "expected"), [
    ("int4-g64-sym", 0.2),  # as measured
    ("int8-a8", 0.03),  # as measured
    ("int8", 0.2 * 0.01),  # a tenth of the error, a hundredth of the loss
    ("fp32", 0.0),
    ("int4-g32-asym-a8", 0.2 * 0.25 + 0.03),  # half the error, and what int8 activations cost
])  # fmt: skip
def test_prediction(name: str, expected: float) -> None:
    measured = {"int4-g64-sym": 0.2, "int8-a8": 0.03}
    assert predict_kl(measured, Scheme.parse(name), ERRORS.__getitem__, Probes(COARSE, A8)) == pytest.approx(expected)


def test_each_group_is_probed_alone_and_once(tmp_path: Path) -> None:
    seen: list[Mapping[str, Scheme]] = []

    def kl_of(change: Mapping[str, Scheme]) -> float:
        seen.append(change)
        return float(len(seen))

    shapes = {"embed": (64, 64), "layers.0.down": (64, 96)}
    offered = {"embed": (COARSE, FINE), "down": (COARSE, FINE, A8)}
    for _ in range(2):
        ledger = Ledger(f"sqlite:///{tmp_path}/study.db", "toy")
        result = measure_sensitivities(ledger, Reporter(), offered, shapes, kl_of)
    assert result == {"embed": {"int4-g64-sym": 1.0}, "layers.0.down": {"int8": 2.0, "int8-a8": 3.0}}
    assert seen == [{"embed": COARSE}, {"layers.0.down": FINE}, {"layers.0.down": A8}]
