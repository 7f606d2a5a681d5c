"""The page: what it says, that it needs nothing else, and that a real browser shows it."""

from __future__ import annotations

import html
import json
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from optimizer.evaluation import Comparison, Estimate, Look
from optimizer.evaluation.sets import Marked
from optimizer.evaluation.sets.multiple_choice import MultipleChoice
from optimizer.report import Headline, ReportData, SetItems, StepLatency, TrialPoint, render_report

Browser = Callable[..., subprocess.CompletedProcess[str]]
Report = Callable[..., ReportData]

HEADINGS = [
    "Search",
    "Precision of each layer",
    "Sensitivity",
    "Accuracy",
    "Kernels",
    "Step latency",
    "Serving limits",
    "Provenance",
]
VOID = {"meta", "link", "br", "hr", "img"}

MINIMAL = ReportData(
    name="tiny",
    target="cpu",
    model="llama, 1 layer",
    headline=Headline(Estimate(1, 1, 1), 1.0, 1.0, 1000, 1000),
    accuracy=(),
    plan={"embed": "bf16", "layers.0.qkv": "int8"},
)


class Checker(HTMLParser):
    """Every element is closed in order; collects section headings and attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[str] = []
        self.attributes: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        if self.open[-2:] == ["section", "h2"]:
            self.headings.append(data)


def check(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    return checker


@pytest.mark.parametrize("num_layers", [1, 30, 80])
def test_page_is_well_formed_and_whole(report: Report, num_layers: int) -> None:
    data = report(num_layers)
    page = render_report(data)
    assert page.startswith("<!DOCTYPE html>")
    assert check(page).headings == HEADINGS
    for group, scheme in data.plan.items():
        assert f'title="{group}: {scheme}"' in page
    assert page.count("<circle") >= len(data.trials)


def test_page_asks_for_nothing(report: Report) -> None:
    page = render_report(report())
    assert not re.search(r"(https?:)?//[a-z]|@import|url\(|<script|<iframe|<object|<embed", page)
    links = [value for name, value in check(page).attributes if name in ("src", "href", "srcset", "action", "data")]
    assert links == ["data:,"]


def test_same_data_same_bytes(report: Report) -> None:
    assert render_report(report()) == render_report(report())


def test_empty_parts_are_left_out() -> None:
    page = render_report(MINIMAL)
    assert check(page).headings == ["Precision of each layer"]
    assert "the gate" not in page


def test_text_is_escaped() -> None:
    page = render_report(replace(MINIMAL, name="<script>&", provenance={"<script>": "</dd>"}))
    check(page)
    assert "<script>" not in page


def test_degenerate_charts() -> None:
    """One trial, KL of zero, one step: axes still have a span."""
    data = replace(
        MINIMAL,
        trials=[TrialPoint(0, "all bf16", 5.0, 0.0, True, True)],
        chosen_trial=0,
        sensitivities={"layers.0.qkv": {"int8": 0.0}},
        step_latencies=[StepLatency(1, 128, 2.0)],
    )
    page = render_report(data)
    assert check(page).headings == ["Search", "Precision of each layer", "Sensitivity", "Step latency"]
    assert "nan" not in page and "inf%" not in page


def test_the_verdict_is_that_of_every_set(report: Report) -> None:
    assert "passes the gate" in render_report(report(max_kl=0.05))
    assert "misses the gate" in render_report(report(max_kl=0.02))


PROBE = """<script>
const boxes = [...document.querySelectorAll("section > h2")].map(h => [h.textContent, h.getBoundingClientRect()]);
parent.found({headings: boxes.filter(([, b]) => b.width > 0 && b.height > 0).map(([text]) => text),
  overflow: document.documentElement.scrollWidth - innerWidth});
</script>"""
FRAME = """<body><script>
function found(facts) { document.body.insertAdjacentHTML("beforeend", `<pre>${JSON.stringify(facts)}</pre>`); }
</script><iframe style="border:0" width=WIDTH height=900 srcdoc="PAGE"></iframe></body>"""


def probe(browser: Browser, page: str, folder: Path, width: int) -> dict[str, object]:
    """What the browser lays out in a frame `width` CSS pixels wide: headings with an area, pixels of sideways scroll."""
    framed = html.escape(page.replace("</body>", PROBE + "</body>"))
    path = folder / f"frame-{width}.html"
    path.write_text(FRAME.replace("WIDTH", str(width)).replace("PAGE", framed))
    dom = browser(path, "--dump-dom", "--virtual-time-budget=3000").stdout
    found: dict[str, object] = json.loads(html.unescape(dom[dom.rindex("<pre>") + 5 : dom.rindex("</pre>")]))
    return found


@pytest.mark.parametrize("num_layers", [30, 80])
def test_browser_shows_every_section(report: Report, browser: Browser, tmp_path: Path, num_layers: int) -> None:
    page = render_report(report(num_layers))
    for width in (1280, 400):
        assert probe(browser, page, tmp_path, width) == {"headings": HEADINGS, "overflow": 0}


def test_browser_draws_it_without_complaint(report: Report, browser: Browser, tmp_path: Path) -> None:
    page, blank = tmp_path / "report.html", tmp_path / "blank.html"
    page.write_text(render_report(report()))
    blank.write_text("<!DOCTYPE html><title>blank</title>")
    sizes = []
    for path in (page, blank):
        shot = path.with_suffix(".png")
        done = browser(path, f"--screenshot={shot}", "--window-size=1280,3700")
        assert "CONSOLE" not in done.stderr
        sizes.append(shot.stat().st_size)
    # An empty page of this size compresses to next to nothing.
    assert sizes[0] > 10 * sizes[1]


def test_sets_of_items_are_shown_with_both_scores_and_their_verdict(report: Report) -> None:
    questions = [{"id": str(i), "question": "?", "choices": ["a", "b"], "answer": 0} for i in range(40)]
    item_set = MultipleChoice("exam", questions, margin=0.1)

    def marked(num_right: int) -> tuple[Marked, ...]:
        return tuple(Marked(str(i), dict.fromkeys(item_set.metrics, float(i < num_right)), "") for i in range(40))

    passed = Comparison(item_set, marked(30), marked(31), False, 0, (Look(40, 0.95),))
    lost = Comparison(item_set, marked(30), marked(10), True, 0, (Look(40, 0.95),))
    for comparison, words in ((passed, ("pass", "passes the gate")), (lost, ("fail", "misses the gate"))):
        data = replace(report(), items=[SetItems("exam", comparison)])
        page = render_report(data)
        check(page)
        assert words[1] in page and f'<td class="{words[0]}">{words[0]}</td>' in page
        assert "<td>exam</td><td>acc_norm</td>" in page and "75.0\N{NO-BREAK SPACE}%" in page
        assert data.passed == (words[0] == "pass")
    assert "Evaluation sets" not in render_report(report())
