"""What a bundle's making depends on, by name: a checkpoint, a model.yaml, a product, a machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from importlib.metadata import version

from artifacts.file_digest import file_sha256
from optimizer.spec.evaluation_spec import SetSpec
from optimizer.stages.job import Job
from optimizer.targets import target_fingerprint

#: of a model.yaml, what only says where things lie, and what names files, which count by content
_LEFT_OUT = {"name", "source", "adapter", "config", "output", "evaluation.text", "evaluation.sets",
             "quantization.calibration.text", "workload.trace", "search.storage", "search.space"}  # fmt: skip


def fingerprint_of(job: Job) -> dict[str, str]:
    """Of today's run of `job`: name -> value, each one printable line."""
    spec, calibration = job.spec, job.spec.quantization.calibration
    found = {
        "coldforge": version("coldforge"),
        "search space": hashlib.sha256(job.space.model_dump_json().encode()).hexdigest(),
        **{f"checkpoint: {name}": digest for name, digest in job.sources.items()},
        **{f"text: {path.stem}": file_sha256(path) for path in spec.evaluation.text},
        **{f"calibration text: {path.stem}": file_sha256(path) for path in calibration.text},
        **{f"set: {one.name}": _set(one) for one in spec.evaluation.sets},
        **{f"model.yaml: {name}": value for name, value in _flat(spec.model_dump(mode="json")) if name not in _LEFT_OUT},
        **target_fingerprint(spec.devices),
    }
    if spec.workload.trace:
        found["trace"] = file_sha256(spec.workload.trace)
    return found


def _set(one: SetSpec) -> str:
    content = None if one.path is None else file_sha256(one.path)
    return json.dumps({**one.model_dump(mode="json"), "path": content}, sort_keys=True)


def _flat(value: Mapping[str, object], within: str = "") -> Iterator[tuple[str, str]]:
    """Each key with all those that it is within, such as gate.max_kl, and its value as JSON."""
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _flat(inner, f"{within}{key}.")
        else:
            yield f"{within}{key}", json.dumps(inner)
