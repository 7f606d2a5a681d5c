"""What a bundle carries of its own making, so that another run can begin from the bundle alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from artifacts.canonical import canonical_json
from artifacts.manifest import Manifest
from optimizer.bundle.fingerprint import fingerprint_of
from optimizer.bundle.forged import Forged
from optimizer.search.earlier import Earlier
from optimizer.search.precision import Trial
from optimizer.search.warm_start import KV_CACHE

FINGERPRINT, RECORDS, TRIALS = "search/fingerprint.json", "search/records.json", "search/trials.jsonl"


@dataclass(frozen=True)
class Making:
    """`fingerprint` says by name what the bundle was made from and on, `earlier` what was measured and tried."""

    fingerprint: Mapping[str, str]
    earlier: Earlier

    @classmethod
    def read(cls, folder: Path, manifest: Manifest) -> Making | None:
        """Of the verified bundle in `folder`; None if it carries none: earlier ones did not."""
        if not {FINGERPRINT, RECORDS, TRIALS} <= manifest.files.keys():
            return None
        content: dict[str, Any] = json.loads((folder / RECORDS).read_bytes())
        trials = [json.loads(line) for line in (folder / TRIALS).read_text(encoding="ascii").splitlines()]
        earlier = Earlier(
            records=content["records"],
            study=content["study"],
            bands=content["bands"],
            trials=[_trial(line) for line in trials],
            chosen=next(line["number"] for line in trials if line["chosen"]),
        )
        return cls(json.loads((folder / FINGERPRINT).read_bytes()), earlier)


def making_files(forged: Forged) -> dict[str, bytes]:
    """What `Making.read` reads beside the trials: fingerprint, records, and what the trials are about."""
    searched = forged.searched
    content = {
        "study": searched.study,
        "bands": {band.name: band.groups for band in searched.bands},
        "records": forged.records,
    }
    return {FINGERPRINT: canonical_json(fingerprint_of(forged.job)), RECORDS: canonical_json(content)}


def _trial(line: Mapping[str, Any]) -> Trial:
    return Trial(
        number=line["number"],
        choice={**line["choice"], KV_CACHE: line["kv_cache"]},
        latency_ms=line["latency_ms"],
        kl=line["kl"],
        violation=line["violation"],
        failure=line.get("failure", ""),
        is_hopeless=line.get("is_hopeless", False),
    )
