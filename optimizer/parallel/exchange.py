"""What devices send each other in a step, and how long that takes by a model of latency and bandwidth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import comb
from typing import Literal

from artifacts.architecture import Architecture
from artifacts.errors import UserError
from artifacts.layer_parts import Moe
from artifacts.precision import Plan
from optimizer.parallel.division import Division
from search_spaces.schema import Device

Kind = Literal["all-reduce", "all-gather", "all-to-all"]
#: what a device's file must state
LINK_FIGURES = ("link_gbps", "link_latency_us", "collective_start_us", "linked_devices")
#: of a link's bandwidth in one direction, by NCCL's table of link speeds for Hopper: 20.6 of 25 GB/s for each NVLink 4
_BANDWIDTH_FRACTION = 0.82
_ACT_BYTES = 2


@dataclass(frozen=True)
class Links:
    """Between the devices of a node. One direction, gigabytes (1e9 bytes) a second and microseconds."""

    gbps: float
    latency_us: float
    start_us: float

    @classmethod
    def of(cls, found: Device, num_devices: int) -> Links:
        """UserError names the figure that a device's file does not state, and refuses more devices than are joined."""
        figures = {name: getattr(found, name) for name in LINK_FIGURES}
        if missing := [name for name, figure in figures.items() if figure is None]:
            raise UserError(
                f"a plan for several devices needs {missing[0]}; {found.name} does not state it: add it with its source, or "
                "choose a device with links, such as h200"
            )
        gbps, latency_us, start_us, joined = (figure.value for figure in figures.values())
        if num_devices > joined:
            raise UserError(
                f"links of {found.name} join {joined:.0f} devices, got {num_devices}: what nodes exchange is not modelled; "
                f"plan for at most {joined:.0f}"
            )
        return cls(gbps / 2, latency_us, start_us)


@dataclass(frozen=True)
class Exchange:
    """`count` exchanges of `num_bytes` each: what an all-reduce sums, what an all-gather leaves on each device, and what each
    device sends in an all-to-all.
    """

    kind: Kind
    what: str
    count: int
    num_bytes: float

    def us(self, num_devices: int, links: Links) -> float:
        """Of all `count`. Rings (Patarasuk and Yuan 2009), latency and bandwidth added up; nothing overlaps with computing."""
        others, share = num_devices - 1, (num_devices - 1) / num_devices
        steps, sent = {
            "all-reduce": (2 * others, 2 * share * self.num_bytes),
            "all-gather": (others, share * self.num_bytes),
            "all-to-all": (1, self.num_bytes),
        }[self.kind]
        return self.count * (links.start_us + steps * links.latency_us + sent / (links.gbps * _BANDWIDTH_FRACTION * 1e3))


def exchanges(division: Division, a: Architecture, plan: Plan, num_tokens: int, num_logits: int) -> Iterator[Exchange]:
    """Of a step of so many tokens, of which so many want logits."""
    if division.num_devices == 1:
        return
    row = a.hidden_size * _ACT_BYTES
    if division.attention == "heads":
        yield Exchange("all-reduce", "of each branch of a layer, and of the embedding", 2 * a.num_layers + 1, num_tokens * row)
        yield Exchange("all-gather", "of logits", 1, num_logits * a.vocab_size * 4)
        return
    assert a.moe is not None
    num_mixtures = sum(a.is_moe(i) for i in range(a.num_layers))
    own = division.sequences(num_tokens)
    others = (division.num_devices - 1) * chance_of_device(a.moe, division.num_devices)
    first = next(i for i in range(a.num_layers) if a.is_moe(i))
    narrow = plan[f"layers.{first}.experts_gate_up"].quantized_activations
    there = own * others * a.hidden_size * (1 if narrow else _ACT_BYTES)
    yield Exchange("all-to-all", "of tokens to their experts", num_mixtures, there)
    yield Exchange("all-to-all", "of their results", num_mixtures, own * others * row)


def chance_of_device(moe: Moe, num_devices: int) -> float:
    """That a token goes to one of `num_devices`, which have as many experts each, all experts of all groups alike.

    A token's experts are distinct and of its chosen groups, so that it is sent to few devices, and once to each.
    """
    here = max(1, moe.num_groups // num_devices)  # groups that the device has experts of
    own = moe.num_experts // num_devices // here  # its experts of each
    total = moe.num_chosen_groups * (moe.num_experts // moe.num_groups)
    missed = 0.0
    for chosen in range(min(here, moe.num_chosen_groups) + 1):
        ways = comb(here, chosen) * comb(moe.num_groups - here, moe.num_chosen_groups - chosen)
        elsewhere = comb(total - chosen * own, moe.num_experts_per_token) / comb(total, moe.num_experts_per_token)
        missed += ways / comb(moe.num_groups, moe.num_chosen_groups) * elsewhere
    return 1 - missed
