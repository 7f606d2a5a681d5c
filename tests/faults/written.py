"""Faults in what a run writes, between its proof and the publication of its bundle."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from pathlib import Path

import pytest

from artifacts.manifest import Deployment, Manifest
from artifacts.weights import Array
from artifacts.writer import write_bundle
from tests.faults.bench import Bench, Draft
from tests.faults.faults import IN_BUNDLE, Fault

#: no fault under the schemes of these runs: there is nothing that it changes
_WITHOUT_EFFECT = {"codes taken for unsigned"}


def in_bundle(quick: Collection[str]) -> list[object]:
    """The faults that a run could make there, as parameters; those that are not `quick` are slow."""
    return [
        pytest.param(fault, id=fault.name, marks=() if fault.name in quick else pytest.mark.slow)
        for fault in IN_BUNDLE
        if fault.name not in _WITHOUT_EFFECT
    ]


def write_with(fault: Fault, bench: Bench, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on `emit` writes bundles with `fault`."""

    def faulty(
        destination: Path,
        deployment: Deployment,
        tensors: dict[str, Array],
        files: dict[str, bytes | Path],
        admit: Callable[[Path], None],
    ) -> Manifest:
        draft = Draft(tensors, files, deployment.model_dump(mode="json"), bench.items, bench.judge)
        fault.inject(draft, monkeypatch, folder)

        def damaged(written: Path) -> None:
            for damage in draft.damages:
                damage(written)
            admit(written)

        described = Deployment.model_validate_json(json.dumps(draft.description))
        return write_bundle(destination, described, draft.tensors, draft.files, admit=damaged)

    monkeypatch.setattr("optimizer.bundle.emit.write_bundle", faulty)
