"""A tiny bundle in use, and nights over it whose blocks are said instead of measured."""

from __future__ import annotations

import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from rich.console import Console

from artifacts.reader import read_manifest
from artifacts.registry import Registry
from optimizer.measure.served_blocks import Block
from optimizer.measure.workload import Workload
from optimizer.nights.night import Night
from optimizer.records.progress import Reporter
from optimizer.retune.command import Request, run_retune
from tests.optimizer.conftest import Project, brief_pairs, finished, project, tiny_llama

__all__ = ["brief_pairs", "finished", "project", "tiny_llama"]
NAME = "tiny@production"


@dataclass
class Clock:
    """Blocks of bundles that are as fast as `ms` says by digest, 10 ms if it does not, with noise of `noise`."""

    ms: dict[str, float] = field(default_factory=dict)
    noise: float = 0.01
    coin: random.Random = field(default_factory=lambda: random.Random(0))
    measured: list[tuple[str, str]] = field(default_factory=list)

    def __call__(self, other: Path, this: Path, workload: Workload, coin: random.Random) -> Block:
        digests = read_manifest(other).digest, read_manifest(this).digest
        self.measured.append(digests)
        ms = [self.ms.get(digest, 10.0) * self.coin.lognormvariate(0, self.noise) for digest in digests]
        return Block(*({"workload": one, "decode": one, "prefill": one} for one in ms))


@dataclass
class Nights:
    """Nights of a project whose bundle is in use as NAME."""

    project: Project
    registry: Registry
    clock: Clock = field(default_factory=Clock)
    said: list[str] = field(default_factory=list)

    def run(self, folder: str = "night", incumbent: str = NAME, reference: str | None = None) -> Night:
        reporter = Reporter(Console(quiet=True))
        reporter.say = self.said.append  # type: ignore[method-assign]
        request = Request(self.project.spec_path, incumbent, self.registry.root, reference, self.project.folder / folder)
        return run_retune(request, reporter, self.clock)

    @property
    def production(self) -> str:
        return self.registry.digest_of(NAME)


@pytest.fixture
def nights(finished: Project, tmp_path: Path) -> Nights:
    """No workspace is left of the run that made the bundle, as on a CI runner."""
    shutil.copytree(finished.folder, tmp_path / "run", ignore=shutil.ignore_patterns("*.work"))
    project = Project(tmp_path / "run")
    registry = Registry.create(tmp_path / "registry")
    registry.promote(NAME, registry.add(project.bundle), why="first")
    return Nights(project, registry)
