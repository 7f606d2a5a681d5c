"""What a bundle says about itself, read once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from artifacts.errors import ContentError
from artifacts.manifest import Manifest
from artifacts.reader import verify_bundle

_EVALUATION = "evaluation.json"


@dataclass(frozen=True)
class Facts:
    """`evaluation` is the content of evaluation.json, empty if the bundle has none."""

    label: str
    manifest: Manifest
    evaluation: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Facts:
        """Of the bundle in `folder`, verified to the byte. Raises the BundleError of the first rule that is broken."""
        manifest = verify_bundle(folder)
        evaluation: object = {}
        if _EVALUATION in manifest.files:
            try:
                evaluation = json.loads((folder / _EVALUATION).read_bytes())
            except ValueError as error:
                raise ContentError(
                    f"{folder / _EVALUATION} must be JSON: {error}; build the bundle again", _EVALUATION
                ) from error
        return cls(str(folder), manifest, evaluation if isinstance(evaluation, dict) else {})
