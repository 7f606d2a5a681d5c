"""Stage one: what each layer group costs in accuracy, alone, at the coarsest schemes; and what that predicts for the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from artifacts.layer_groups import kind_of
from artifacts.precision import Plan, Scheme
from optimizer.records.ledger import Ledger
from optimizer.records.progress import Reporter
from optimizer.records.record_key import record_key

#: group -> scheme name -> mean KL in nats
Sensitivities = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Probes:
    """The two schemes that are measured: the coarsest weights, and the finest weights that meet rounded activations."""

    weights: Scheme
    activations: Scheme | None

    @classmethod
    def among(cls, offered: Iterable[Scheme]) -> Probes:
        schemes = sorted(offered, key=lambda s: (s.bits_per_weight, s.group_size, s.name))
        weight_only = [s for s in schemes if not s.quantized_activations] or schemes
        rounded = [s for s in schemes if s.quantized_activations]
        return cls(weight_only[0], rounded[-1] if rounded else None)


def what_is_probed(offered: Mapping[str, Sequence[Scheme]], shapes: Mapping[str, tuple[int, int]]) -> list[tuple[str, Scheme]]:
    """Each layer group with each of its probes."""
    work: list[tuple[str, Scheme]] = []
    for group, shape in shapes.items():
        probes = Probes.among(s for s in offered[kind_of(group)] if s.refusal(*shape) is None)
        work += [(group, scheme) for scheme in (probes.weights, probes.activations) if scheme is not None]
    return work


def measure_sensitivities(
    ledger: Ledger,
    reporter: Reporter,
    offered: Mapping[str, Sequence[Scheme]],
    shapes: Mapping[str, tuple[int, int]],
    kl_of: Callable[[Plan], float],
    depends_on: Callable[[Plan], Mapping[str, object]] = lambda change: {},
) -> Sensitivities:
    """KL of each group alone at its probes, all other groups left as they are; each is a record as soon as it is known.

    `depends_on` says what else the KL of a change follows from.
    """
    work = what_is_probed(offered, shapes)
    sensitivities: Sensitivities = {group: {} for group in shapes}
    for group, scheme in reporter.track(work, "sensitivity of layer groups", len(work)):
        change = {group: scheme}
        key = record_key(f"sensitivity/{group}/{scheme.name}", **depends_on(change))
        sensitivities[group][scheme.name] = ledger.once(key, partial(kl_of, change))
    return sensitivities


def predict_kl(
    sensitivity: Mapping[str, float], scheme: Scheme, relative_error: Callable[[Scheme], float], probes: Probes
) -> float:
    """KL of one group alone at `scheme`, from its probes.

    To second order the loss is quadratic in the weight error, so KL scales with its square; rounded activations add what
    their probe measured. Only the order of candidates depends on this: each plan that is tried is measured.
    """
    measured = sensitivity.get(scheme.name)
    if measured is not None:
        return measured
    coarsest = relative_error(probes.weights)
    ratio = (relative_error(scheme) / coarsest) ** 2 if coarsest else 0.0
    activations = sensitivity[probes.activations.name] if scheme.quantized_activations and probes.activations else 0.0
    return sensitivity[probes.weights.name] * ratio + activations
