"""Histories as one self-contained page: no script, no request; the pages of differences lie beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from artifacts.errors import BundleError
from artifacts.registry import Registry
from optimizer.difference import Facts, difference_of
from optimizer.difference.page import render_difference
from optimizer.history.chart import anchor, series_chart
from optimizer.history.history import History
from optimizer.history.terminal import said
from optimizer.report.page import report_environment


class BundleFolders:
    """Where bundles lie by their digests; a bundle that was pruned, or never was in a registry, lies nowhere."""

    def __init__(self, registry: Registry | None) -> None:
        self._registry = registry
        self._digests = set() if registry is None else set(registry.digests())

    def get(self, digest: str) -> Path | None:
        return self._registry.folder(digest) if self._registry is not None and digest in self._digests else None


#: digests before and after -> the page of their difference, or in words why there is none
Differences = Mapping[tuple[str, str], "Path | str"]


def write_page(histories: Sequence[History], bundles: BundleFolders, page: Path) -> list[Path]:
    """Write the page, and beside it one for each pair of bundles between which a series moved. Returns what was written."""
    pairs = {move.bundles for history in histories for move in history.moves if move.bundles is not None}
    differences = {pair: _write_difference(pair, bundles, page) for pair in sorted(pairs)}
    page.write_text(render_history(histories, differences), encoding="utf-8")
    return [page, *(written for written in differences.values() if isinstance(written, Path))]


def render_history(histories: Sequence[History], differences: Differences) -> str:
    """The page; the same bytes for the same nights."""
    return (
        report_environment()
        .get_template("history.html.jinja")
        .render(
            histories=histories,
            differences=differences,
            series_chart=series_chart,
            anchor=anchor,
            said=said,
            is_page=lambda found: isinstance(found, Path),
        )
    )


def _write_difference(pair: tuple[str, str], bundles: BundleFolders, page: Path) -> Path | str:
    folders = [bundles.get(digest) for digest in pair]
    missing = [digest[:12] for digest, folder in zip(pair, folders, strict=True) if folder is None]
    if missing:
        return f"no difference is shown: {' and '.join(missing)} is not in the registry"
    try:
        left, right = (Facts.read(folder) for folder in folders if folder is not None)
    except BundleError as error:
        return f"no difference is shown: {error}"
    written = page.with_name(f"{page.stem}-{pair[0][:12]}-{pair[1][:12]}.html")
    written.write_text(render_difference(difference_of(left, right)), encoding="utf-8")
    return written
