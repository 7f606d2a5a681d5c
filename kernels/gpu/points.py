"""Which tuned point a call runs at: calls that differ only in how much they hold share one, by powers of two."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from kernels.gpu.launch import Problem
from kernels.gpu.tuning import Point
from kernels.registry import spec
from kernels.spec import axis_name

#: a step holds at most so many tokens, sequences or rows before larger ones share a point
LARGEST_BUCKET = 8192


class MissingPoint(KeyError):
    """A call that nobody tuned: the bundle was made for other limits."""


def bucket(extent: int) -> int:
    """The power of two that `extent` counts as."""
    return min(1 << max(0, extent - 1).bit_length(), LARGEST_BUCKET)


def buckets(largest: int) -> Iterator[int]:
    """Every bucket up to that of `largest`, ascending."""
    size = 1
    while size < bucket(largest):
        yield size
        size *= 2
    yield size


def point_key(problem: Problem) -> str:
    """What decides the point of a call: its fixed extents and dtypes, its flags, and the bucket of what a step changes.

    Attention of one query per sequence is told from all other, whose number of sequences does not count.
    """
    contract = spec(problem.symbol)
    shapes = {name: tensor.shape for name, tensor in problem.tensors.items()}
    decodes = problem.scalars.get("max_query_len") == 1
    extents: dict[str, int | str] = {}
    for tensor in contract.tensors:
        for axis, extent in zip(tensor.axes, shapes.get(tensor.name, ()), strict=False):
            name = axis_name(axis)
            if name is None or name != axis or name in extents or name in _FREE:
                continue
            if name not in contract.variable:
                extents[name] = extent
            elif name != "S" or decodes:
                extents[name] = f"<={bucket(extent)}"
    flags = {name: value for name, value in problem.scalars.items() if isinstance(value, int) and name != "max_query_len"}
    if "max_query_len" in problem.scalars:
        flags["decodes"] = int(decodes)
    dtypes = sorted({tensor.dtype for tensor in problem.tensors.values()})
    absent = [tensor.name for tensor in contract.tensors if tensor.optional and tensor.name not in problem.tensors]
    listed = ",".join(f"{name}={value}" for name, value in {**extents, **flags}.items())
    return f"{problem.symbol}({listed})[{','.join(dtypes)}]" + "".join(f" without {name}" for name in absent)


#: axes whose extent changes nothing but how far an array reaches
_FREE = frozenset({"num_blocks", "max_blocks"})


@dataclass(frozen=True)
class PointTable:
    """point_key -> point, for one architecture; `num_sms` is what launches were planned for, whatever the device has."""

    num_sms: int
    points: Mapping[str, Point]

    def point(self, problem: Problem) -> Point:
        """The point of a call; MissingPoint if there is none."""
        key = point_key(problem)
        if key not in self.points:
            raise MissingPoint(f"no kernel was tuned for {key}; build the bundle again with limits that cover this step")
        return self.points[key]


def dump_tables(tables: Mapping[str, PointTable]) -> bytes:
    """Architecture -> table, as canonical JSON."""
    content = {
        arch: {"num_sms": table.num_sms, "points": {key: dict(point) for key, point in table.points.items()}}
        for arch, table in tables.items()
    }
    return (json.dumps(content, sort_keys=True, indent=1) + "\n").encode()


def parse_tables(data: bytes) -> dict[str, PointTable]:
    """What `dump_tables` wrote."""
    return {arch: PointTable(table["num_sms"], table["points"]) for arch, table in json.loads(data).items()}
