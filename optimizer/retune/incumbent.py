"""The bundle that a night begins from: in use until another is proven better."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from artifacts.errors import UserError
from artifacts.manifest import Manifest
from artifacts.reader import verify_bundle
from artifacts.registry import Registry
from artifacts.registry.names import is_digest, is_name
from optimizer.bundle.making import Making
from optimizer.measure.machine import Machine
from optimizer.measure.workload import Workload


def located(text: str, registry: Registry | None) -> Path:
    """The folder of the bundle that `text` names: a name or a digest of the registry, or a folder."""
    if registry is not None and is_name(text):
        return registry.folder(registry.digest_of(text))
    if Path(text).is_dir():
        return Path(text)
    if registry is None or not is_digest(text):
        raise UserError(f"a bundle is a folder or, with --registry, a name such as smollm2@production; got {text!r}")
    return registry.folder(text)


@dataclass(frozen=True)
class Incumbent:
    """`making` is None where the bundle does not carry it; `evaluation` is its evaluation.json."""

    folder: Path
    manifest: Manifest
    making: Making | None
    evaluation: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Incumbent:
        """Of the bundle in `folder`, verified to the byte. BundleError at the first rule that is broken."""
        manifest = verify_bundle(folder)
        if "evaluation.json" not in manifest.files:
            raise UserError(f"{folder} must be a bundle that `optimize` has proved, and has no evaluation.json; build it again")
        evaluation = json.loads((folder / "evaluation.json").read_bytes())
        return cls(folder, manifest, Making.read(folder, manifest), evaluation)

    @property
    def workload(self) -> Workload:
        """What it was made to be fast for."""
        return Workload(**self.evaluation["workload"])

    def machine(self, today: Machine) -> Machine:
        """What it was made on; `today` where it does not say."""
        return today if self.making is None else Machine.of_fingerprint(self.making.fingerprint)


def serve_alike(one: Manifest, other: Manifest) -> bool:
    """Whether two bundles are the same to whom they serve: all but what they tell about their making."""
    return _served(one) == _served(other)


def _served(manifest: Manifest) -> object:
    said = manifest.model_dump(mode="json", exclude={"provenance", "digest", "files", "format_version"})
    for kernels in said["kernels"]:
        del kernels["compiler"]
    parts = ("weights/", "kernels/", "tokenizer.json", "chat_template.jinja", "generation_config.json")
    return said, {name: record for name, record in manifest.files.items() if name.startswith(parts)}
