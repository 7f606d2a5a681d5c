"""A night for people: Markdown, as GitHub shows it beside a job. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from optimizer.difference import Difference
from optimizer.nights.night import Night, Ratio

_SHOWN = 12
#: sections of a difference that say what would serve otherwise
_SECTIONS = ("Plan", "Kernels", "Limits", "Speed", "Model and device")


def summary(night: Night, difference: Difference | None) -> str:
    """`difference` is that of incumbent and candidate."""
    return "\n".join(_lines(night, difference)) + "\n"


def _lines(night: Night, difference: Difference | None) -> Iterator[str]:
    yield f"## {night.model}: {night.verdict}"
    yield ""
    yield f"{_plain(night.why)}."
    yield ""
    named = {"incumbent": night.incumbent, "candidate": night.candidate, "reference": night.reference}
    yield from _table(
        ("", ""),
        [
            ("time", night.time),
            *((name, f"`{digest[:_SHOWN]}`") for name, digest in named.items() if digest),
            ("the incumbent's proof", night.proof or "not repeated"),
            ("records", f"{night.records_reused} used again, {night.records_void} void"),
        ],
    )
    if night.changes:
        yield "### What changed"
        rows = [
            (one.name, one.then or "absent", one.now or "absent", ", ".join(one.voids) or "nothing") for one in night.changes
        ]
        yield from _table(("", "then", "now", "void"), rows)
    speeds = {
        "against the reference": night.against_reference,
        "candidate against incumbent": night.against_incumbent,
        "incumbent against itself": night.noise,
    }
    if any(speeds.values()):
        yield "### Speed"
        yield from _table(("", "of", "ratio", "blocks"), list(_speeds(speeds)))
    if night.accuracy:
        yield "### Accuracy"
        yield from _table(("", ""), list(night.accuracy.items()))
    for section in () if difference is None else difference.sections:
        if section.title in _SECTIONS and section.rows:
            yield f"### {section.title}: incumbent and candidate"
            yield from _table(("", "incumbent", "candidate"), [(row.subject, row.left, row.right) for row in section.rows])


def _speeds(speeds: Mapping[str, Mapping[str, Ratio]]) -> Iterator[tuple[str, ...]]:
    for title, ratios in speeds.items():
        for of, ratio in ratios.items():
            yield title, of, f"{ratio.value:.3f} x", str(len(ratio.log_ratios))


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield f"|{' --- |' * len(header)}"
    for row in rows:
        yield f"| {' | '.join(map(_plain, row))} |"
    yield ""


def _plain(text: str) -> str:
    """Text that is no markup and stays in its cell."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
