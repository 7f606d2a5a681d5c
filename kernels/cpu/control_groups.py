"""The control groups that this process is in (https://docs.kernel.org/admin-guide/cgroup-v2.html, and v1 beside it).

Every group above a process's own counts too, and a machine may have both versions mounted: the smallest of all limits is what
holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_V2_MOUNTS = ("sys/fs/cgroup", "sys/fs/cgroup/unified")


def v1_groups(root: Path, controller: str, mounts: tuple[str, ...]) -> Iterator[Path]:
    """The folders of the groups by `controller`, which may be mounted at `mounts` below `root`."""
    yield from _groups(root, mounts, _own_groups(root).get(controller, ""))


def v2_groups(root: Path) -> Iterator[Path]:
    """The folders of the groups of version 2."""
    yield from _groups(root, _V2_MOUNTS, _own_groups(root).get("", ""))


def text(path: Path) -> str:
    """What the file says; nothing where it cannot be read, which limits nothing."""
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""


def _groups(root: Path, mounts: tuple[str, ...], own: str) -> Iterator[Path]:
    for mount in mounts:
        yield from _down_to(root / mount, own)


def _own_groups(root: Path) -> dict[str, str]:
    """Controller -> the path of this process's group, "" for v2."""
    lines = (line.split(":", 2) for line in text(root / "proc/self/cgroup").splitlines() if line.count(":") >= 2)
    return {controller: path for _, controllers, path in lines for controller in controllers.split(",")}


def _down_to(mount: Path, path: str) -> Iterator[Path]:
    """The group that is mounted, and those below it down to `path`. In a container the own group is often the mounted one, and
    the path one that only the host can see, or one that leads out of the mount."""
    yield mount
    names = [name for name in path.split("/") if name]
    for name in names if ".." not in names else ():
        mount /= name
        yield mount
