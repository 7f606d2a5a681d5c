"""What an export could not keep as the bundle has it: said on the terminal, and kept beside the result."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray

from artifacts.manifest import Manifest
from artifacts.precision import Scheme
from optimizer.formats.table import CODECS

RECORD_NAME = "export.json"


@dataclass(frozen=True)
class Change:
    """A tensor whose values differ from the bundle's. `relative_error` is ||exported - stored|| / ||stored||."""

    tensor: str
    stored: str
    exported: str
    why: str
    relative_error: float


@dataclass
class ExportRecord:
    """Everything in an export that is not bit for bit what the bundle holds.

    `notes` are about computation: activations, the KV cache, attention windows.
    """

    manifest: Manifest
    format: str
    changes: list[Change] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        schemes = {Scheme.parse(name) for name in self.manifest.precision.groups.values()}
        if any(scheme.int16_activations for scheme in schemes):
            self.note(
                "activations: layers in int8-a16 are written as int8 with float activations, which no format rounds to 16 bits"
            )
        for weights in sorted({scheme.weights for scheme in schemes}):
            if widened := CODECS[weights].widened:
                self.note(widened.note)

    def changed(
        self, tensor: str, stored: str, exported: str, why: str, before: NDArray[np.float32], after: NDArray[np.float32]
    ) -> None:
        """Note that `tensor` has the values `after` in place of `before`; nothing is noted where they are the same."""
        if not np.array_equal(before, after):
            norm = float(np.linalg.norm(before.astype(np.float64)))
            error = float(np.linalg.norm(after.astype(np.float64) - before)) / norm if norm else 0.0
            self.changes.append(Change(tensor, stored, exported, why, error))

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def json(self) -> str:
        return json.dumps(
            {
                "bundle": {"name": self.manifest.name, "digest": self.manifest.digest},
                "format": self.format,
                "tool_version": version("coldforge"),
                "changes": [asdict(change) for change in self.changes],
                "notes": self.notes,
            },
            indent=2,
            sort_keys=True,
        )

    def lines(self) -> list[str]:
        """For the terminal: one line for all tensors that were changed alike, then the notes."""
        alike: defaultdict[tuple[str, str, str], list[Change]] = defaultdict(list)
        for change in self.changes:
            alike[change.stored, change.exported, change.why].append(change)
        lines = [
            f"{_counted(changes)}: {stored} became {exported} (relative error at most "
            f"{max(change.relative_error for change in changes):.2g}): {why}"
            for (stored, exported, why), changes in alike.items()
        ]
        return [*(lines or ["every weight is bit for bit the bundle's"]), *self.notes]


def _counted(changes: list[Change]) -> str:
    return changes[0].tensor if len(changes) == 1 else f"{changes[0].tensor} and {len(changes) - 1} more"
