"""How many cores this process may use: those it may run on, and the share of them that its control groups grant.

A quota (https://docs.kernel.org/scheduler/sched-bwc.html) is CPU time in each period. cgroup v1 has it in `cpu.cfs_quota_us`,
-1 for none, and `cpu.cfs_period_us`, v2 in `cpu.max`, "QUOTA PERIOD" with "max" for none. Every group above a process's own
counts too, and a machine may have both versions mounted, so the smallest of all is what there is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_V1_MOUNTS = ("sys/fs/cgroup/cpu", "sys/fs/cgroup/cpu,cpuacct", "sys/fs/cgroup/cpuacct,cpu")
_V2_MOUNTS = ("sys/fs/cgroup", "sys/fs/cgroup/unified")


def available_cores(root: Path = Path("/")) -> int:
    """Cores to run threads on: whole ones within the affinity and the quota, at least 1. `root` has proc and sys.

    Of 2.5 cores, 2: a thread beyond the quota has all threads stopped for the rest of each period, and what is left over goes
    to the threads beside the team.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota(root)
    return affinity if quota is None else max(1, min(affinity, int(quota)))


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Cores' worth of time that this process's control groups grant, None for no limit. What cannot be read limits nothing."""
    own = _own_groups(root)
    quotas = [_v1_quota(group) for mount in _V1_MOUNTS for group in _down_to(root / mount, own.get("cpu", ""))]
    quotas += [_v2_quota(group) for mount in _V2_MOUNTS for group in _down_to(root / mount, own.get("", ""))]
    return min((quota for quota in quotas if quota is not None), default=None)


def _own_groups(root: Path) -> dict[str, str]:
    """Controller -> the path of this process's group, "" for v2."""
    lines = (line.split(":", 2) for line in _text(root / "proc/self/cgroup").splitlines() if line.count(":") >= 2)
    return {controller: path for _, controllers, path in lines for controller in controllers.split(",")}


def _down_to(mount: Path, path: str) -> Iterator[Path]:
    """The group that is mounted, and those below it down to `path`. In a container the own group is often the mounted one, and
    the path one that only the host can see, or one that leads out of the mount."""
    yield mount
    names = [name for name in path.split("/") if name]
    for name in names if ".." not in names else ():
        mount /= name
        yield mount


def _v1_quota(group: Path) -> float | None:
    return _quota(_text(group / "cpu.cfs_quota_us"), _text(group / "cpu.cfs_period_us"))


def _v2_quota(group: Path) -> float | None:
    quota, _, period = _text(group / "cpu.max").partition(" ")
    return _quota(quota, period)


def _quota(quota: str, period: str) -> float | None:
    try:
        granted, every = int(quota), int(period)
    except ValueError:
        return None
    return granted / every if granted > 0 and every > 0 else None


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
