"""Plans worth trying before any sampler has learned anything."""

from __future__ import annotations

from collections.abc import Sequence

from optimizer.search.bands import Band

#: band -> scheme name
Choice = dict[str, str]


def uniform_choices(bands: Sequence[Band]) -> list[Choice]:
    """One plan for each scheme that every band can take: what a user would try by hand."""
    return [
        {band.name: scheme.name for band in bands} for scheme in bands[0].choices if all(scheme in b.choices for b in bands)
    ]
