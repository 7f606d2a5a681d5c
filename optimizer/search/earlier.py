"""What an earlier run measured and tried, for a search that begins where that one ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from artifacts.precision import KvDtype
from optimizer.search.bands import Band
from optimizer.search.precision import Trial, pareto_front
from optimizer.search.warm_start import KV_CACHE, Assignment


@dataclass(frozen=True)
class Earlier:
    """`study` is the key that its trials were kept under, `bands` names the layer groups of each of its bands."""

    records: Mapping[str, object]
    study: str
    bands: Mapping[str, Sequence[str]]
    trials: Sequence[Trial]
    chosen: int
    """The number of the trial that became the bundle."""

    def warm_starts(self, bands: Sequence[Band], kv_dtypes: Sequence[KvDtype]) -> list[Assignment]:
        """What it chose and then its front, as choices of today's bands; without those that today's space does not offer.

        Where bands have changed, each takes the scheme that most of its layer groups had.
        """
        chosen = [trial for trial in self.trials if trial.number == self.chosen]
        choices = [self._on(trial, bands) for trial in [*chosen, *pareto_front(self.trials)]]
        offered = {band.name: {scheme.name for scheme in band.choices} for band in bands} | {KV_CACHE: set(kv_dtypes)}
        return [choice for choice in choices if all(choice.get(name) in values for name, values in offered.items())]

    def _on(self, trial: Trial, bands: Sequence[Band]) -> Assignment:
        scheme_of = {group: trial.choice[name] for name, groups in self.bands.items() for group in groups}
        choice: Assignment = {KV_CACHE: trial.choice[KV_CACHE]}
        for band in bands:
            had = Counter(scheme_of[group] for group in band.groups if group in scheme_of)
            if had:
                choice[band.name] = had.most_common(1)[0][0]
        return choice
