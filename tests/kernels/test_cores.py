"""How many cores a process may use, by the files of fake machines; and that nobody counts them another way."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from kernels.cpu.cores import available_cores, cpu_quota
from kernels.registry import ROOT

V1, V2, HYBRID = "sys/fs/cgroup/cpu", "sys/fs/cgroup", "sys/fs/cgroup/unified"

#: Enters the group of the file given, and counts.
COUNT = """
import os, sys
with open(sys.argv[1], "w") as members:
    members.write(str(os.getpid()))
from kernels.cpu.host import host
print(host().num_cores)
"""


def v1(group: str, quota_us: int | str, period_us: int | str = 100_000, mount: str = V1) -> dict[str, str]:
    return {f"{mount}{group}/cpu.cfs_quota_us": f"{quota_us}\n", f"{mount}{group}/cpu.cfs_period_us": f"{period_us}\n"}


def v2(group: str, line: str, mount: str = V2) -> dict[str, str]:
    return {f"{mount}{group}/cpu.max": f"{line}\n"}


def own(*lines: str) -> dict[str, str]:
    return {"proc/self/cgroup": "".join(f"{line}\n" for line in lines)}


MACHINES: Mapping[str, tuple[Mapping[str, str], float | None]] = {
    "no control groups": ({}, None),
    "v1 without a quota": (own("4:cpu:/") | v1("", -1), None),
    "v1 of one core": (own("4:cpu:/") | v1("", 100_000), 1.0),
    "v1 of half a core in short periods": (own("4:cpu:/") | v1("", 5_000, 10_000), 0.5),
    "v1 in a group": (own("4:cpu:/a") | v1("", -1) | v1("/a", 250_000), 2.5),
    "v1, the group above grants less": (own("4:cpu:/a/b") | v1("/a", 100_000) | v1("/a/b", 400_000), 1.0),
    "v1, another group's quota is not ours": (own("4:cpu:/a") | v1("/a", 300_000) | v1("/b", 100_000), 3.0),
    "v1, cpu and cpuacct together": (
        own("3:cpu,cpuacct:/a", "2:memory:/m") | v1("/a", 200_000, mount="sys/fs/cgroup/cpu,cpuacct"),
        2.0,
    ),
    "v1, the other way round": (own("3:cpuacct,cpu:/a") | v1("/a", 200_000, mount="sys/fs/cgroup/cpuacct,cpu"), 2.0),
    "v1, cpuset's and cpuacct's groups are others": (own("5:cpuset:/a", "4:cpu:/", "3:cpuacct:/a") | v1("/a", 100_000), None),
    "v1 in a container that sees the host's path": (own("4:cpu:/docker/0123") | v1("", 150_000), 1.5),
    "v1 without a period": (own("4:cpu:/") | {f"{V1}/cpu.cfs_quota_us": "100000\n"}, None),
    "v1 with a period of 0": (own("4:cpu:/") | v1("", 100_000, 0), None),
    "v2 without a quota": (own("0::/") | v2("", "max 100000"), None),
    "v2 of one core": (own("0::/") | v2("", "100000 100000"), 1.0),
    "v2 in a slice": (own("0::/user.slice/a.scope") | v2("/user.slice/a.scope", "50000 20000"), 2.5),
    "v2, the slice grants less": (
        own("0::/s/a:b/c") | v2("/s", "120000 100000") | v2("/s/a:b", "max 100000") | v2("/s/a:b/c", "400000 100000"),
        1.2,
    ),
    "v2 in a container": (own("0::/") | v2("", "300000 100000"), 3.0),
    "v2, a path from outside the namespace": (
        own("0::/../../pod") | v2("", "200000 100000") | v2("/pod", "100000 100000"),
        2.0,
    ),
    "v2, a group that is gone": (own("0::/gone (deleted)") | v2("", "200000 100000"), 2.0),
    "v2 without /proc": (v2("", "200000 100000"), 2.0),
    "v2, nonsense": (own("0::/") | v2("", "fast"), None),
    "v2, empty": (own("0::/") | v2("", ""), None),
    "both, v1 has the controller": (own("4:cpu:/a", "0::/b") | v1("/a", 100_000) | v2("/b", "max 100000", HYBRID), 1.0),
    "both, v2 has the controller": (own("4:memory:/a", "0::/b") | v2("/b", "300000 100000", HYBRID), 3.0),
    "both, v2 grants less": (own("4:cpu:/a", "0::/b") | v1("/a", 400_000) | v2("/b", "100000 100000", HYBRID), 1.0),
}


@pytest.mark.parametrize("name", MACHINES)
def test_cores_are_the_smaller_of_affinity_and_quota(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, quota = MACHINES[name]
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    assert cpu_quota(tmp_path) == quota
    for affinity in (1, 2, 8):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid, affinity=affinity: set(range(affinity)))
        assert available_cores(tmp_path) == (affinity if quota is None else min(affinity, max(1, int(quota))))


def test_the_systems_own_files_are_read() -> None:
    """A process in a group of one core has one, whatever its affinity, where this process may make such a group."""
    group = Path(f"/sys/fs/cgroup/cpu/coldforge-test-{os.getpid()}")
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no group can be made: {error}")
    try:
        (group / "cpu.cfs_quota_us").write_text("100000")
        counted = subprocess.run(
            [sys.executable, "-c", COUNT, str(group / "cgroup.procs")], capture_output=True, text=True, cwd=ROOT.parent
        )
        assert counted.stdout == "1\n", counted.stderr
    finally:
        group.rmdir()


def test_everything_asks_the_one_function() -> None:
    counting = re.compile(r"cpu_count|sched_getaffinity|available_parallelism")
    sources = [path for package in ("kernels", "runtime", "optimizer") for path in (ROOT.parent / package).rglob("*.py")]
    assert [path.name for path in sources if counting.search(path.read_text(encoding="utf-8"))] == ["cores.py"]
