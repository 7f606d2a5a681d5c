"""From `quantization` of a model.yaml to the weights that a search takes: the model transformed, then rounded by a method."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from artifacts.canonical import canonical_json
from artifacts.errors import UserError
from artifacts.layer_groups import kind_of
from artifacts.precision import Plan, Scheme
from optimizer.importers import Source
from optimizer.quantization import (
    ROUND_TO_NEAREST,
    Calibration,
    Method,
    clipped_rounding_method,
    gptq_method,
    with_static_activations,
)
from optimizer.quantization.packed import Layout
from optimizer.records.progress import Reporter
from optimizer.spec import QuantizationSpec
from optimizer.transforms import AWQ, SMOOTHQUANT, search_scales, transformed
from optimizer.transforms.channel_scales import SCALABLE
from optimizer.weights.quantized_store import QuantizedStore
from optimizer.weights.rare_experts import RareExperts, divided, rare_experts

_SCALE_METHODS = {"awq": AWQ, "smoothquant": SMOOTHQUANT}


def scaled_plan(transform: str, groups: Iterable[str], offered: Mapping[str, Sequence[Scheme]]) -> Plan:
    """Layer group -> the scheme under which `transform` is searched: the one of fewest bits that its kind is offered.

    Of equal ones it is the one of float activations; smoothquant takes those of quantized activations only. Groups without such
    a scheme are left out; ValueError where none is left.
    """
    for_activations = _SCALE_METHODS[transform].for_activations
    plan: dict[str, Scheme] = {}
    for group in groups:
        if (kind := kind_of(group)) in (*SCALABLE, "head"):
            schemes = [s for s in offered[kind] if not s.is_float and (s.quantized_activations or not for_activations)]
            if schemes:
                plan[group] = min(schemes, key=lambda s: (s.bits_per_weight, s.quantized_activations))
    if not plan:
        what = "a scheme that quantizes activations, such as int8-a8" if for_activations else "a scheme that quantizes weights"
        raise UserError(f"transform: {transform} needs {what}, the search space offers none; offer one, or remove transform")
    return plan


def prepared_weights(
    source: Source,
    spec: QuantizationSpec,
    scaled: Plan,
    sequences: Sequence[Sequence[int]],
    folder: Path,
    layout: Layout,
    reporter: Reporter,
    has_static_activations: bool = False,
) -> QuantizedStore:
    """The weights of `source` as `spec` asks, calibrated on `sequences`; scales are searched under the plan `scaled`.

    `has_static_activations`: a scheme is offered whose activations are rounded under a calibrated scale.
    A rotation that `spec` names is done already: it looks at no text.

    `folder` keeps statistics, scales and weights; a killed run goes on at its layer. What depends on the transform has a folder
    named after its record, so gains and weights of two never mix.
    """
    first = calibration = Calibration(source, sequences, folder / "calibration")
    if spec.scales is not None:
        calibration.gather(reporter)
        method, scales_folder = _SCALE_METHODS[spec.scales], folder / "scales" / spec.scales
        scales = search_scales(source, calibration, scaled, method, scales_folder, reporter=reporter)
        source = transformed(source, scales)
        folder = folder / f"{spec.scales}-{record_sha256(source)[:16]}"
        calibration = Calibration(source, sequences, folder / "calibration")
    if spec.method == "gptq" or spec.clip or has_static_activations:
        calibration.gather(reporter)
    is_calibrated = spec.is_calibrated or has_static_activations
    rare = rare_experts(first, source.architecture.num_layers, spec.rare_experts) if is_calibrated else []
    if layout.divides_experts and (apart := divided(source, rare)) is not source:
        source, calibration = apart, calibration.divided(apart.architecture)
        folder = folder / f"rare-{hashlib.sha256(canonical_json(source.architecture.model_dump(mode='json'))).hexdigest()[:16]}"
    for one in rare:
        reporter.say(f"{one}; {_what_is_done(one, source, layout)}; more text, or some that reaches them, may help")
    quantization = _method(spec, calibration)
    if has_static_activations:
        quantization = with_static_activations(quantization, calibration)
    return QuantizedStore(source, folder / "weights", layout, quantization, rare)


def _what_is_done(rare: RareExperts, source: Source, layout: Layout) -> str:
    if source.architecture.rare_experts(rare.layer):
        return "they are kept at a higher precision"
    if not layout.divides_experts:
        return "they keep the scheme of the others: GPU kernels have one for all experts of a layer"
    return "the checkpoint's own codes are kept"


def record_sha256(source: Source) -> str:
    """sha256 of the record of `source`'s transforms, as a bundle holds it."""
    return hashlib.sha256(canonical_json(source.transforms())).hexdigest()


def _method(spec: QuantizationSpec, calibration: Calibration) -> Method:
    if spec.method == "gptq":
        return gptq_method(calibration, clip=spec.clip)
    return clipped_rounding_method(calibration) if spec.clip else ROUND_TO_NEAREST
