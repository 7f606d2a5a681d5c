"""How many devices of a kind would hold a model."""

from __future__ import annotations

from collections.abc import Mapping

from artifacts.architecture import Architecture
from artifacts.precision import Plan
from optimizer.parallel.division import divisions
from search_spaces.schema import Device

GIB = 2**30
#: counts that are tried
_COUNTS = (2, 4, 8, 16, 32, 64)


def fewest_devices(architecture: Architecture, plans: Mapping[str, Plan], room: int, found: Device) -> str:
    """In words that end a refusal: the fewest devices, each with `room` bytes, that hold the weights of one of `plans`."""
    for count in _COUNTS:
        for name, plan in plans.items():
            for division in divisions(architecture, count):
                if not division.refusal(architecture, plan) and (weights := division.weight_bytes(architecture, plan)) <= room:
                    return (
                        f"; {count} of them would hold the weights ({name}, {weights / GIB:.1f} GiB on each)"
                        f"{_advice(count, found)}"
                    )
    return "; choose a device with more memory"


def _advice(count: int, found: Device) -> str:
    if found.linked_devices is None or count > found.linked_devices.value:
        return ", and are more than its links join; choose a device with more memory"
    return f": plan for them by shapes alone (source: random, --gpu {count}x{found.name})"
