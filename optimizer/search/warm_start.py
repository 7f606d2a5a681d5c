"""Plans worth trying before any sampler has learned anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from artifacts.precision import KvDtype
from optimizer.search.bands import Band

#: band -> scheme name, and KV_CACHE -> KV dtype where that is searched
Assignment = dict[str, str]
KV_CACHE = "kv_cache"


def kv_dtype_of(choice: Mapping[str, str]) -> KvDtype:
    """The KV cache of a choice that names one."""
    return cast(KvDtype, choice[KV_CACHE])


def uniform_choices(bands: Sequence[Band]) -> list[Assignment]:
    """One plan for each scheme that every band can take: what a user would try by hand."""
    return [
        {band.name: scheme.name for band in bands} for scheme in bands[0].choices if all(scheme in b.choices for b in bands)
    ]
