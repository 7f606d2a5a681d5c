"""How much memory is left, by what Linux says of the machine and of control groups, and how much a bundle needs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from artifacts.architecture import Architecture
from artifacts.manifest import Limits
from runtime.host_memory import ALLOWANCE_BYTES, NoRoomError, available_bytes, check_room, needed_bytes

GIB = 1 << 30


def machine(root: Path, **files: str) -> Path:
    """Files below `root`; two underscores stand for a slash."""
    default = {"proc__meminfo": f"MemTotal: 9\nMemAvailable:   {8 * GIB >> 10} kB\n"}
    for name, content in (default | files).items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


V2 = {
    "proc__self__cgroup": "0::/pod\n",
    "sys__fs__cgroup__pod__memory.max": f"{4 * GIB}\n",
    "sys__fs__cgroup__pod__memory.current": f"{3 * GIB}\n",
    "sys__fs__cgroup__pod__memory.stat": f"anon 5\ninactive_file {GIB}\n",
}
V1 = {
    "proc__self__cgroup": "4:memory:/pod\n",
    "sys__fs__cgroup__memory__memory.limit_in_bytes": f"{GIB * 3}\n",
    "sys__fs__cgroup__memory__memory.usage_in_bytes": f"{GIB}\n",
    "sys__fs__cgroup__memory__pod__memory.limit_in_bytes": "9223372036854771712\n",
    "sys__fs__cgroup__memory__pod__memory.usage_in_bytes": "7\n",
}


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({}, 8 * GIB),
        (V2, 2 * GIB),
        (V2 | {"sys__fs__cgroup__pod__memory.max": "max\n"}, 8 * GIB),
        (V2 | {"sys__fs__cgroup__pod__memory.current": f"{6 * GIB}\n"}, 0),
        (V1, 2 * GIB),
        (V1 | {"proc__meminfo": "MemTotal: 9\n"}, 2 * GIB),
        ({"proc__meminfo": ""}, None),
    ],
)
def test_the_smallest_of_all_counts(tmp_path: Path, files: dict[str, str], left: int | None) -> None:
    assert available_bytes(machine(tmp_path, **files)) == left


def test_this_machine_says_something() -> None:
    left = available_bytes()
    assert left is None or left > 0


def bundle(num_kv_blocks: int, archs: tuple[str, ...] = ()) -> Any:
    architecture = Architecture(
        vocab_size=100, hidden_size=64, intermediate_size=96, num_layers=3, num_q_heads=4, num_kv_heads=2, head_dim=16,
        family="llama", max_position=64, rms_norm_eps=1e-5,
    )  # fmt: skip
    limits = Limits(
        kv_block_size=16, num_kv_blocks=num_kv_blocks, max_num_seqs=1, max_num_batched_tokens=8, max_model_len=64, num_threads=1
    )
    return SimpleNamespace(
        architecture=architecture,
        serving=limits,
        weight_files=("a", "b"),
        files={"a": SimpleNamespace(size=1000), "b": SimpleNamespace(size=24), "tokenizer.json": SimpleNamespace(size=1 << 40)},
        precision=SimpleNamespace(kv_cache="bf16"),
        target=SimpleNamespace(archs=archs),
    )


def test_what_a_bundle_needs() -> None:
    # keys and values of 3 layers x 2 heads x 16 dimensions in bf16
    more = needed_bytes(bundle(100)) - needed_bytes(bundle(4))
    assert more == 96 * 16 * (2 * 3 * 2 * 16 * 2)
    of_a_step = needed_bytes(bundle(4)) - 4 * 16 * 384 - 1024 - ALLOWANCE_BYTES
    assert of_a_step >= 8 * 4 * (100 + 64 + 96 * 2)
    assert needed_bytes(bundle(100, ("sm_90",))) == 1024 + ALLOWANCE_BYTES


def test_what_does_not_fit_is_refused_with_both_figures(tmp_path: Path) -> None:
    root = machine(tmp_path, **V2)
    check_room(bundle(100), root)
    with pytest.raises(
        NoRoomError, match=r"it needs about 3\.\d\d GiB beside what is loaded, and 2\.00 GiB are left; give the"
    ):
        check_room(bundle(500_000), root)
