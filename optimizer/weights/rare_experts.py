"""Experts that calibration hardly reached: their codes rest on little, so they get layer groups, and a scheme, of their own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from artifacts.architecture import Architecture
from artifacts.layer_groups import is_of_experts, plain_group
from artifacts.precision import Plan, Scheme
from optimizer.formats.matrix import QuantizedMatrix
from optimizer.formats.stored_matrix import Misfit
from optimizer.importers import Source
from optimizer.quantization import Calibration

_KINDS = ("experts_gate_up", "experts_down")
_ANY_ROUNDED = Scheme("int8")


@dataclass(frozen=True)
class RareExperts:
    """Those of one layer: expert -> tokens of calibration that went to it. All `num_experts` together got `num_pairs`."""

    layer: int
    hits: Mapping[int, int]
    num_experts: int
    num_pairs: int

    def __str__(self) -> str:
        found = ", ".join(f"{expert} ({hits})" for expert, hits in self.hits.items())
        return (
            f"layers.{self.layer}: {len(self.hits)} of {self.num_experts} experts got hardly any of calibration's tokens, an "
            f"even share being {self.num_pairs / self.num_experts:.4g}: {found}"
        )


def rare_experts(calibration: Calibration, num_layers: int, share: float) -> list[RareExperts]:
    """Of each layer that has some: experts to which less than `share` of an even share of calibration's tokens went."""
    found = []
    for layer in range(num_layers):
        if len(hits := calibration.hits(layer)):
            rare = (hits < share * hits.double().mean()).nonzero().flatten().tolist()
            if rare:
                of_rare = {expert: int(hits[expert]) for expert in rare}
                found.append(RareExperts(layer, of_rare, len(hits), int(hits.sum())))
    return found


@dataclass(frozen=True)
class DividedSource(Source):
    """`base` with `rare_experts` in layer groups of their own. Its function is the same, to the bit."""

    base: Source

    def __post_init__(self) -> None:
        """`base` has checked its checkpoint."""

    def tensor(self, name: str) -> Tensor:
        """The canonical tensor `name`. KeyError on an unknown name."""
        group, _, part = name.rpartition(".")
        if not (is_of_experts(group) and part == "weight"):
            return self.base.tensor(name)
        plain = plain_group(group)
        experts = self.architecture.expert_groups(plain)[group]
        assert self.architecture.moe is not None
        matrices = self.base.tensor(f"{plain}.weight").chunk(self.architecture.moe.num_experts)
        return torch.cat([matrices[expert] for expert in experts])

    @property
    def is_bf16(self) -> bool:
        return self.base.is_bf16

    def stored(self, group: str, scheme: Scheme) -> QuantizedMatrix | Misfit | None:
        """Those of `base`; layers whose experts came quantized are not divided."""
        return None if self._is_divided(group) else self.base.stored(group, scheme)

    def keeping(self, group: str, schemes: Iterable[Scheme]) -> list[Scheme]:
        return [] if self._is_divided(group) else self.base.keeping(group, schemes)

    def transforms(self) -> list[dict[str, object]]:
        return self.base.transforms()

    def _is_divided(self, group: str) -> bool:
        return is_of_experts(group) and len(self.architecture.expert_groups(plain_group(group))) > 1


def divided(source: Source, rare: Sequence[RareExperts]) -> Source:
    """`source` with the `rare` experts apart; itself where no layer can be divided.

    A layer whose experts came quantized keeps their codes: those do not rest on calibration.
    """
    apart = {
        one.layer: tuple(one.hits)
        for one in rare
        if not any(source.stored(f"layers.{one.layer}.{kind}", _ANY_ROUNDED) for kind in _KINDS)
    }
    if not apart:
        return source
    architecture = source.architecture
    assert architecture.moe is not None
    layers = tuple(apart.get(layer, ()) for layer in range(architecture.num_layers))
    moe = architecture.moe.model_copy(update={"rare_experts": layers})
    # Checked as any other: experts of a dense layer, say, would be a bug.
    changed = Architecture.model_validate(architecture.model_dump() | {"moe": moe.model_dump()})
    inherited = {field.name: getattr(source, field.name) for field in fields(Source)} | {"architecture": changed}
    return DividedSource(**inherited, base=source)


def described(rare: Sequence[RareExperts], architecture: Architecture, plan: Plan) -> Iterator[str]:
    """What became of each layer's rare experts under `plan`, in sentences."""
    for one in rare:
        groups = [list(architecture.expert_groups(f"layers.{one.layer}.{kind}")) for kind in _KINDS]
        schemes = [plan[names[-1]].name for names in groups]
        kept = "in" if len(groups[0]) > 1 else "all experts there in"
        yield f"{one}; {kept} {', '.join(dict.fromkeys(schemes))}"
