"""The name of a run's study: the same inputs go on with it, any other never meets its records."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.metadata import version

from optimizer.spec import ModelSpec
from optimizer.targets import target_fingerprint
from search_spaces.schema import SearchSpace


def study_name(spec: ModelSpec, sources: Mapping[str, str], space: SearchSpace) -> str:
    """The specification's name and a digest of all that measurements hold for: inputs, space, target, version of the code."""
    identity = [spec.digest(sources), space.model_dump_json(), version("coldforge"), *target_fingerprint(spec.devices).items()]
    return f"{spec.name}-{hashlib.sha256(repr(identity).encode()).hexdigest()[:16]}"
