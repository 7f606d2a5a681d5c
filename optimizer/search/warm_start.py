"""Plans worth trying before any sampler has learned anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from optimizer.search.bands import Band

#: band -> scheme name
Choice = dict[str, str]


def uniform_choices(bands: Sequence[Band]) -> list[Choice]:
    """One plan for each scheme that every band can take: what a user would try by hand."""
    return [
        {band.name: scheme.name for band in bands} for scheme in bands[0].choices if all(scheme in b.choices for b in bands)
    ]


def trade_off_choices(
    bands: Sequence[Band],
    latency_ms: Mapping[str, Mapping[str, float]],
    kl: Mapping[str, Mapping[str, float]],
    num_prices: int = 24,
) -> list[Choice]:
    """Plans that minimize predicted KL + price x latency, over a range of prices: the convex hull of an additive model.

    `latency_ms` and `kl` map band -> scheme name -> its share. From fast to accurate, without repetition.
    """
    spans_ms = [max(costs.values()) - min(costs.values()) for costs in latency_ms.values()]
    spans_kl = [max(losses.values()) - min(losses.values()) for losses in kl.values()]
    typical = max(max(spans_kl), 1e-12) / max(max(spans_ms), 1e-12)
    choices: list[Choice] = []
    for price in typical * np.logspace(2, -4, num_prices):
        choice = {
            band.name: min(
                (scheme.name for scheme in band.choices),
                key=lambda name: kl[band.name][name] + price * latency_ms[band.name][name],
            )
            for band in bands
        }
        if choice not in choices:
            choices.append(choice)
    return choices
