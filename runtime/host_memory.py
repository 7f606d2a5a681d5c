"""How much memory is left for this process, and how much a bundle needs.

What is left is the least of what the machine has (`MemAvailable`) and of what each control group of the process leaves: v2
has `memory.max`, "max" for none, and `memory.current`; v1 `memory.limit_in_bytes` and `memory.usage_in_bytes`. A file's cached
pages that nobody has used for a while count as used there, and are given back when needed (`inactive_file`).
"""

from __future__ import annotations

from pathlib import Path

from artifacts.errors import UserError
from artifacts.kv_cache import kv_bytes_per_token
from artifacts.layer_groups import is_table, kind_of
from artifacts.manifest import Manifest
from kernels.cpu.control_groups import text, v1_groups, v2_groups

_V1_MOUNTS = ("sys/fs/cgroup/memory",)
_FP32_BYTES = 4
#: For what is not counted: the tokenizer and what is made of it, the grammars' trie, stacks, scratch. Measured: decision 0054.
ALLOWANCE_BYTES = 256 << 20


class NoRoomError(UserError):
    """A bundle does not fit beside what is in memory already."""


def check_room(manifest: Manifest, root: Path = Path("/")) -> None:
    """NoRoomError unless the bundle fits into the memory that is left; `root` has proc and sys."""
    needed, left = needed_bytes(manifest), available_bytes(root)
    if left is not None and needed > left:
        raise NoRoomError(
            f"it needs about {needed / 2**30:.2f} GiB beside what is loaded, and {left / 2**30:.2f} GiB are left; give the "
            "server more memory, or promote a bundle with fewer KV blocks"
        )


def needed_bytes(manifest: Manifest) -> int:
    """Of the host's memory: weights, an allowance and, where the host computes, the KV cache and the buffers of a step.

    Weights are mapped files; they count, because a step reads all of them.
    """
    weights = sum(manifest.files[path].size for path in manifest.weight_files)
    if manifest.target.archs:
        return weights + ALLOWANCE_BYTES
    architecture, serving = manifest.architecture, manifest.serving
    kv_tokens = serving.num_kv_blocks * serving.kv_block_size
    # Logits, and for each kind and size of layer group its output and its input.
    shapes = {(kind_of(group), shape) for group, shape in architecture.linear_shapes().items() if not is_table(group)}
    widths = architecture.vocab_size + sum(sum(shape) for kind, shape in shapes if kind != "head")
    widths += architecture.num_layers * architecture.per_layer_size  # rows of their table
    step = serving.max_num_batched_tokens * widths * _FP32_BYTES
    return weights + kv_tokens * kv_bytes_per_token(architecture, manifest.precision.kv_cache) + step + ALLOWANCE_BYTES


def available_bytes(root: Path = Path("/")) -> int | None:
    """Memory that this process may still take, None where nothing says so."""
    lefts = [_meminfo(root)]
    lefts += [_left(group, "memory.max", "memory.current", "inactive_file") for group in v2_groups(root)]
    lefts += [
        _left(group, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        for group in v1_groups(root, "memory", _V1_MOUNTS)
    ]
    return min((left for left in lefts if left is not None), default=None)


def _meminfo(root: Path) -> int | None:
    return _number(_fields(root / "proc/meminfo").get("MemAvailable:"), 1024)


def _left(group: Path, limit: str, usage: str, inactive: str) -> int | None:
    most, used = _number(text(group / limit)), _number(text(group / usage))
    if most is None or used is None:
        return None
    return max(0, most - used + (_number(_fields(group / "memory.stat").get(inactive)) or 0))


def _fields(path: Path) -> dict[str, str]:
    """The lines of a file of names and values."""
    lines = (line.split() for line in text(path).splitlines())
    return {words[0]: words[1] for words in lines if len(words) > 1}


def _number(value: str | None, unit: int = 1) -> int | None:
    return int(value) * unit if value is not None and value.strip().isdecimal() else None
