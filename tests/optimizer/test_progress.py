"""What a run says while it works: one task for a stage, and always what is left of it."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from artifacts.layer_groups import kind_of
from optimizer.importers import open_source
from optimizer.measure.workbench import CpuWorkbench
from optimizer.measure.workload import Workload
from optimizer.quantization.packed import CPU_LAYOUT
from optimizer.records.ledger import Ledger
from optimizer.records.progress import Pace, Reporter
from optimizer.search.bands import fitting_schemes
from optimizer.spec import QuantizationSpec
from optimizer.stages.limits import LimitStage
from optimizer.targets import offered_schemes
from optimizer.targets.cpu import CpuTarget
from optimizer.tuning.limits import StepTime
from optimizer.weights.prepared_weights import prepared_weights, scaled_plan
from search_spaces.space import load_space
from tests.optimizer.tuning.test_limits import ARCHITECTURE


class Clock:
    """`time.monotonic` of what shows progress, moved by hand."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("optimizer.records.progress.time.monotonic", clock)
    return clock


def plain() -> tuple[Reporter, Callable[[], list[str]]]:
    """A reporter that writes to no terminal, and the lines so far."""
    written = io.StringIO()
    return Reporter(Console(file=written, width=200)), lambda: written.getvalue().splitlines()


def test_plain_lines_say_what_is_left(clock: Clock) -> None:
    reporter, lines = plain()
    with reporter.task("layers", 24) as advance:
        for _ in range(24):
            clock.now_s += 37
            advance()
    assert lines()[0] == "layers: 1/24, about 851 s left"
    assert lines()[22] == "layers: 23/24, about 37 s left"
    assert lines()[23:] == ["layers: done, 24 in 888.0 s"]


def test_steps_that_were_known_do_not_shorten_what_is_left(clock: Clock) -> None:
    """A run that goes on reads its first steps from its records."""
    pace = Pace(150)
    assert pace.left_s() is None
    for _ in range(100):
        clock.now_s += 0.001
        pace.advance()
    clock.now_s += 20
    pace.advance()
    assert pace.left_s() == pytest.approx(49 * 20)


def test_a_stage_that_a_time_limit_ends_is_never_longer(clock: Clock) -> None:
    pace = Pace(100, limit_s=60)
    assert pace.left_s() == 60
    clock.now_s += 10
    pace.advance()
    assert pace.left_s() == 50
    clock.now_s += 70
    assert pace.left_s() == 0


def test_a_terminal_shows_what_is_left_of_long_steps(clock: Clock) -> None:
    written = io.StringIO()
    reporter = Reporter(Console(file=written, width=120, force_terminal=True, color_system=None))
    with reporter.task("layers", 24) as advance:
        clock.now_s += 37
        advance()
    assert re.search(r"layers .* 1/24 .* left 0:14:11", written.getvalue())


@pytest.mark.parametrize(
    ("quantization", "stages"),
    [
        ({"method": "gptq"}, ["calibrating layers"]),
        ({"transform": "awq", "method": "gptq"}, ["calibrating layers", "searching awq scales", "calibrating layers"]),
    ],
)
def test_calibration_is_one_stage(tiny_llama: Path, tmp_path: Path, quantization: dict[str, str], stages: list[str]) -> None:
    source, spec = open_source(tiny_llama), QuantizationSpec.model_validate(quantization)
    shapes = source.architecture.linear_shapes()
    space = offered_schemes(load_space(), ("cpu",), dict.fromkeys(map(kind_of, shapes)), source.architecture)
    scaled = scaled_plan(spec.scales, shapes, fitting_schemes(shapes, space)) if spec.scales else {}
    reporter, lines = plain()
    store = prepared_weights(source, spec, scaled, [[1, 2, 3] * 20], tmp_path, CPU_LAYOUT, reporter)
    said = [line for line in lines() if "done" in line]
    assert [line.partition(":")[0] for line in said] == stages
    assert all(re.search(r"done, 3 in", line) for line in said), "two layers and the head"
    for group in shapes:
        store.relative_error(group, space["qkv"][0])
    assert [line for line in lines() if "done" in line] == said, "and nothing is calibrated one by one later"


def test_steps_of_the_chosen_plan_are_one_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def step(self: CpuTarget, workbench: object, plan: object, workload: Workload, size: int, *, decodes: bool) -> StepTime:
        return StepTime(1, size, 100, 1.0)

    monkeypatch.setattr(CpuTarget, "step", step)
    reporter, lines = plain()
    target = CpuTarget("cpu", load_space(), tmp_path, Ledger("sqlite://", "serving"), reporter)
    bench = CpuWorkbench(ARCHITECTURE, None, "fp32", 16, None, 1)  # type: ignore[arg-type]
    LimitStage(target, load_space().serving, reporter, bench, {}, Workload(8, 8, 1), None).run()
    assert [line.partition(" in ")[0] for line in lines()] == ["measuring steps of the chosen plan: done, 6"]
