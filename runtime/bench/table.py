"""The figures as text. Plain lines of at most 80 columns, the same on a terminal and in a pipe."""

from __future__ import annotations

from collections.abc import Sequence

from runtime.bench.bound import DecodeBound, Peaks
from runtime.bench.metrics import Percentiles, Targets
from runtime.bench.profile import Profile, Work
from runtime.bench.surface import Point

_GAP = "  "
#: what stands for a share of a peak that is none
_FASTER_THAN_PEAK = {
    "cached": "read faster than memory gives, so a cache held part of it",
    "over": "beyond the peak of its arithmetic, which a busier machine gave",
}


def surface_text(points: Sequence[Point], model: str, targets: Targets) -> str:
    """Four lines per cell of the surface, one for each latency; throughput stands on the first."""
    header = ("prompt", "load", "ms", "p50", "p90", "p99", "tok/s", "req/s", "good/s", "errors")
    rows: list[Sequence[str]] = []
    for point in points:
        summary = point.summary
        first = (f"{point.mean_prompt_tokens:.0f}", str(point.load), "TTFT", *_three(summary.ttft_ms))
        rates = (f"{summary.output_tokens_per_s:.1f}", f"{summary.requests_per_s:.2f}", f"{summary.goodput_per_s:.2f}")
        rows.append((*first, *rates, str(summary.num_errors)))
        for name, percentiles in (("ITL", summary.itl_ms), ("TPOT", summary.tpot_ms), ("e2e", summary.e2e_ms)):
            rows.append(("", "", name, *_three(percentiles)))
        rows.append(())
    title = f"{model}, {_output_tokens(points)}; {_goodput(targets)}"
    messages = dict.fromkeys(error for point in points for error in point.summary.errors)
    return "\n".join([title, "", *_lines(header, rows[:-1]), "", *_cached(points), *messages])


def bound_text(peaks: Peaks, bounds: Sequence[tuple[Point, DecodeBound]]) -> str:
    """The roofline of decode: under each load the floors of a step, and the median ITL as a multiple of the one that binds."""
    header = ("prompt", "load", "MB/tok", "Mop/tok", "read ms", "ops ms", "binds", "ITL ms", "x floor")
    rows = []
    for point, bound in bounds:
        itl = point.summary.itl_ms
        rows.append((
            f"{point.mean_prompt_tokens:.0f}",
            str(point.load),
            f"{bound.bytes_per_token / 1e6:.1f}",
            f"{bound.flops_per_token / 1e6:.0f}",
            _ms(bound.memory_ms),
            _ms(bound.compute_ms),
            bound.bound,
            *(("-", "-") if itl is None else (_ms(itl.p50), f"{itl.p50 / bound.floor_ms:.1f}")),
        ))  # fmt: skip
    title = "decode: the least a step takes at the peaks measured here before the load"
    is_beaten = any(point.summary.itl_ms and point.summary.itl_ms.p50 < bound.floor_ms for point, bound in bounds)
    beaten = ["", "below 1 x: a cache held part of it, or a busier machine gave the peaks"] if is_beaten else []
    return "\n".join([title, peaks_text(peaks), "", *_lines(header, rows), *beaten])


def profile_text(profile: Profile) -> str:
    """One line for each entry point and part of the model, the slowest first."""
    what = f"decode of 1 token at a context of {profile.context_len}"
    if profile.phase == "prefill":
        what = f"prefill of {profile.num_tokens} tokens"
    header = ("part", "kernel", "ms", "time", "MB", "GB/s", "of peak")
    rows = [_work(work, profile.total.ms) for work in (*profile.works, profile.total)]
    ends = dict.fromkeys(row[-1] for row in rows)
    notes = [f"{word}: {meaning}" for word, meaning in _FASTER_THAN_PEAK.items() if word in ends]
    return "\n".join([f"{what}, one step", "", *_lines(header, rows, left=2), *(["", *notes] if notes else [])])


def peaks_text(peaks: Peaks) -> str:
    return (
        f"reads {peaks.memory_gbps:.1f} GB/s, floating point {peaks.float_gflops:.0f} Gop/s, int8 {peaks.int8_gops:.0f} Gop/s"
    )


def _work(work: Work, total_ms: float) -> Sequence[str]:
    return (
        work.part,
        work.symbol,
        f"{work.ms:.3f}",
        f"{work.ms / total_ms:.0%}",
        f"{work.bytes / 1e6:.2f}",
        f"{work.gbps:.1f}",
        _of_peak(work),
    )


def _of_peak(work: Work) -> str:
    if work.of_peak is None:
        return "cached" if work.bound == "memory" else "over"
    return f"{work.of_peak:.0%} {'read' if work.bound == 'memory' else 'ops'}"


def _lines(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 0) -> list[str]:
    """Columns as wide as what they hold, the first `left` of them set to the left; a rule under the header."""
    widths = [max(len(row[column]) for row in (header, *rows) if column < len(row)) for column in range(len(header))]

    def line(row: Sequence[str]) -> str:
        cells = (
            text.ljust(width) if column < left else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=False))
        )
        return _GAP.join(cells).rstrip()

    return [line(header), _GAP.join("-" * width for width in widths), *map(line, rows)]


def _three(percentiles: Percentiles | None) -> Sequence[str]:
    if percentiles is None:
        return ("-",) * 3
    return [_ms(value) for value in (percentiles.p50, percentiles.p90, percentiles.p99)]


def _ms(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _output_tokens(points: Sequence[Point]) -> str:
    """What was asked for, and what came where a server ends answers itself."""
    asked = points[0].num_output_tokens
    counted = [(p.summary.num_output_tokens, p.summary.num_completed) for p in points if p.summary.num_completed]
    if all(tokens == asked * completed for tokens, completed in counted):
        return f"{asked} output tokens"
    mean = sum(tokens for tokens, _ in counted) / sum(completed for _, completed in counted)
    return f"up to {asked} output tokens, {mean:.1f} on average"


def _cached(points: Sequence[Point]) -> Sequence[str]:
    """How much of the prompts the server did not compute. A cell where that is much measures its prefix cache."""
    silent = "cached prompt tokens: the server does not say"
    lines = []
    for point in points:
        cached, prompts = point.summary.num_cached_tokens, point.summary.num_prompt_tokens
        if cached:
            where = f"{point.mean_prompt_tokens:.0f} tokens, {point.load}"
            lines.append(f"cached prompt tokens: {cached} of {prompts} ({cached / prompts:.0%}) at {where}")
        elif cached is None and point.summary.num_completed:
            lines.append(silent)
    return list(dict.fromkeys(lines)) or ["cached prompt tokens: none"]


def _goodput(targets: Targets) -> str:
    wanted = [f"{name} <= {ms:g} ms" for name, ms in (("TTFT", targets.ttft_ms), ("TPOT", targets.itl_ms)) if ms is not None]
    return f"good/s: {' and '.join(wanted)}" if wanted else "good/s: no targets set"
