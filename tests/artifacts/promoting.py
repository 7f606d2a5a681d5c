"""A process that promotes one bundle, to be killed: `python -m tests.artifacts.promoting REGISTRY BUNDLE`."""

from __future__ import annotations

import sys
from pathlib import Path

from artifacts.registry import Registry

if __name__ == "__main__":
    registry = Registry.create(Path(sys.argv[1]))
    registry.promote("tiny@production", registry.add(Path(sys.argv[2])), why="a test")
