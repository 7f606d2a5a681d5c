"""Files that are on disk, not only in memory, when their writer returns."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def created(path: Path) -> Iterator[BinaryIO]:
    """A new file, mode 0644 whatever the umask, on disk when the block ends. FileExistsError if it is there already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        yield file
        os.fchmod(file.fileno(), 0o644)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Put the names in `folder` on disk: a new file's name is part of its folder, not of the file."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(root: Path) -> None:
    """Mode 0755 for every folder from `root` on, and their names on disk."""
    for folder in (root, *(path for path in root.rglob("*") if path.is_dir())):
        folder.chmod(0o755)
        sync_folder(folder)
