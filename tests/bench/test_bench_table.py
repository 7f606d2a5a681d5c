"""What is printed fits 80 columns, holds every figure and is never cut."""

from __future__ import annotations

from runtime.bench.bound import DecodeBound, Peaks
from runtime.bench.client import ClosedLoop, OpenLoop
from runtime.bench.metrics import Answer, Targets, summarize
from runtime.bench.profile import Profile, Work
from runtime.bench.surface import Point
from runtime.bench.table import bound_text, profile_text, surface_text

SLOW = Answer(0.0, (12.345, 99.0), 100_000, 2)
FAILED = Answer(0.0, (), 0, 0, error="APIConnectionError: refused")
POINTS = [
    Point(100_000, 64, ClosedLoop(128), summarize([SLOW, FAILED, FAILED], 100.0, Targets(20_000, 90_000))),
    Point(64, 64, OpenLoop(12.5), summarize([FAILED], 1.0)),
]


def widest(text: str) -> int:
    return max(map(len, text.splitlines()))


def test_surface() -> None:
    text = surface_text(POINTS, "smollm2", Targets(ttft_ms=20_000))
    assert widest(text) <= 80
    lines = text.splitlines()
    (row,) = [line for line in lines if line.split()[:1] == ["100000"]]
    assert row.split() == ["100000", "128", "at", "once", "TTFT", "12345", "12345", "12345", "0.0", "0.01", "0.01", "2"]
    (itl, _) = [line.split() for line in lines if line.split()[:1] == ["ITL"]]
    assert itl == ["ITL", "86655", "86655", "86655"]
    assert "12.5/s" in text and "TTFT <= 20000 ms" in text
    assert text.count("refused") == 1, "why requests failed, once"


def test_bound() -> None:
    bound = DecodeBound(128, 1000, "compute", 1_234.5e6, 28_000e6, 1_000.25, 8_665.6, None)
    text = bound_text(Peaks(28.4, 101.6, 412), [(POINTS[0], bound), (POINTS[1], bound)])
    assert widest(text) <= 80
    assert "reads 28.4 GB/s" in text and "int8 412 Gop/s" in text
    measured, unmeasured = text.splitlines()[-2:]
    assert measured.split()[-6:] == ["28000", "1000", "8666", "compute", "86655", "10.0"]
    assert unmeasured.split()[-3:] == ["compute", "-", "-"]


def test_profile() -> None:
    matmul = Work("gate_up", "quant_matmul_int4_asym_a8", 30, 1234.5, 2e9, 4e9, 800.0, 400.0, 800.0)
    norm = Work("activation", "silu_and_mul", 61, 0.5, 1e6, 4e6, 0.1, 0.2, 0.2)
    text = profile_text(Profile("prefill", 512, 512, (matmul, norm)))
    assert widest(text) <= 80
    first, second, total = (line.split() for line in text.splitlines()[-3:])
    assert first == ["gate_up", "quant_matmul_int4_asym_a8", "1234.500", "100%", "2000.00", "1.6", "65%", "read"]
    assert second[-2:] == ["40%", "ops"]
    assert total[:3] == ["total", "1235.000", "100%"]


def test_nothing_is_more_than_its_peak() -> None:
    """A share above 100 % would be of no peak at all: what was faster says why, and adds no more than its time."""
    cached = Work("gate_up", "quant_matmul_int8", 30, 1.0, 4e7, 2e6, 3.9, 0.1, 3.9)
    over = Work("qkv", "quant_matmul_int8_a16", 30, 1.0, 1e6, 4e9, 0.1, 15.06, 15.06)
    known = Work("down", "quant_matmul_int8", 30, 2.0, 4e6, 2e6, 0.5, 0.1, 0.5)
    text = profile_text(Profile("prefill", 512, 512, (known, cached, over)))
    assert widest(text) <= 80
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line}
    assert rows["gate_up"][-1] == "cached" and rows["qkv"][-1] == "over" and rows["down"][-2:] == ["25%", "read"]
    assert rows["total"][-2:] == ["62%", "ops"], "(1 + 1 + 0.5) of 4 ms"
    assert rows["cached:"] and rows["over:"]
    assert "cached:" not in profile_text(Profile("prefill", 512, 512, (known,)))


def test_a_floor_that_was_beaten_says_so() -> None:
    bound = DecodeBound(1, 1000, "memory", 1e6, 1e6, 90_000, 1.0, None)
    assert "below 1 x: a cache held part of it" in bound_text(Peaks(28.4, 101.6, 412), [(POINTS[0], bound)])
