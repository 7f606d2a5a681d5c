"""From a device's name to its stages."""

from __future__ import annotations

from pathlib import Path

from optimizer.ledger import Ledger
from optimizer.progress import Reporter
from optimizer.quantization.packed import CPU_LAYOUT, Layout
from optimizer.targets.cpu import CpuTarget, cpu_identity
from optimizer.targets.target import TargetStages
from search_spaces.schema import SearchSpace


def target_identity(device: str) -> list[object]:
    """What measurements for `device` hold for: a part of a study's name."""
    return cpu_identity()


def target_layout(device: str) -> Layout:
    """How a bundle for `device` stores its weights."""
    return CPU_LAYOUT


def open_target(device: str, space: SearchSpace, folder: Path, ledger: Ledger, reporter: Reporter) -> TargetStages:
    """The stages of `device`; `folder` keeps what they build."""
    return CpuTarget(device, space, folder, ledger, reporter)
