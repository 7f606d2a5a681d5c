"""How many cores this process may use: those it may run on, and the share of them that its control groups grant.

A quota (https://docs.kernel.org/scheduler/sched-bwc.html) is CPU time in each period. cgroup v1 has it in `cpu.cfs_quota_us`,
-1 for none, and `cpu.cfs_period_us`, v2 in `cpu.max`, "QUOTA PERIOD" with "max" for none. The smallest of all is what there is.
"""

from __future__ import annotations

import os
from pathlib import Path

from kernels.cpu.control_groups import text, v1_groups, v2_groups

_V1_MOUNTS = ("sys/fs/cgroup/cpu", "sys/fs/cgroup/cpu,cpuacct", "sys/fs/cgroup/cpuacct,cpu")


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
    quotas = [_v1_quota(group) for group in v1_groups(root, "cpu", _V1_MOUNTS)]
    quotas += [_v2_quota(group) for group in v2_groups(root)]
    return min((quota for quota in quotas if quota is not None), default=None)


def _v1_quota(group: Path) -> float | None:
    return _quota(text(group / "cpu.cfs_quota_us"), text(group / "cpu.cfs_period_us"))


def _v2_quota(group: Path) -> float | None:
    quota, _, period = text(group / "cpu.max").partition(" ")
    return _quota(quota, period)


def _quota(quota: str, period: str) -> float | None:
    try:
        granted, every = int(quota), int(period)
    except ValueError:
        return None
    return granted / every if granted > 0 and every > 0 else None
