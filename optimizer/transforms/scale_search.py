"""Factors of input channels that make a group's quantized output closest to the float one, found group by group."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from artifacts.architecture import Architecture
from artifacts.errors import UserError
from artifacts.layer_groups import is_of_experts
from artifacts.precision import Plan, Scheme
from artifacts.weight_formats import FP8_BLOCK
from kernels.quantize_activations.gpu_reference import quantize_blocks, quantize_rows, quantize_with
from optimizer.importers import Source
from optimizer.quantization import Calibration, InputStatistics, Quantizer, WeightRangeError, round_to_nearest
from optimizer.quantization.static_activations import static_scale
from optimizer.records.progress import Reporter
from optimizer.transforms.channel_scales import ChannelScales, beside, num_factors, scalable_groups, sharing, spread
from optimizer.transforms.transformed_source import refuse_what_cannot_fold

#: what is smaller makes no output that counts: of an expert without tokens, or whose gate was shut for all of them
_LEAST_INPUT = 1e-10


@dataclass(frozen=True)
class Channels:
    """What proposals are made of: a group's input channels, those that share a factor taken as one.

    All fp32 [num_factors], and positive.
    """

    mean_input: Tensor
    rms_input: Tensor
    max_input: Tensor
    rms_weight: Tensor
    """Over the rows of W."""
    max_weight: Tensor


#: the choice by name -> number, and the factors that it makes, in any common unit
Proposal = tuple[dict[str, float], Tensor]


@dataclass(frozen=True)
class ScaleMethod:
    """Which factors to try. All ones are tried anyway."""

    name: str
    propose: Callable[[Channels], Iterable[Proposal]]
    for_activations: bool = False
    """Whether it is for schemes that quantize activations, and has nothing to offer to others."""


def search_scales(
    source: Source,
    calibration: Calibration,
    plan: Plan,
    method: ScaleMethod,
    folder: Path,
    *,
    quantize: Quantizer = round_to_nearest,
    reporter: Reporter | None = None,
) -> ChannelScales:
    """The transform of `source` under which `plan`'s groups, quantized by `quantize`, lose the least, each by itself.

    The loss of a group is `OutputLoss`, on calibration inputs; `calibration` is that of `source`. `quantize` should look at
    weights alone: whatever statistics it has are not of scaled inputs. Groups that the plan keeps in float, or leaves out, and
    the embedding keep their channels. Each layer's result stays in `folder`, which belongs to this source; a killed search goes
    on at its layer.

    Memory: one group's weights and statistics. Raises UntransformableModelError, and UserError for a folder in which another
    search left its results.
    """
    refuse_what_cannot_fold(source.architecture)
    layers: dict[str, list[str]] = {}
    for group in scalable_groups(source.architecture):
        if calibration.covers(group) and group in plan and not plan[group].is_float:
            layers.setdefault(group.rpartition(".")[0] or group, []).append(group)

    factors: dict[str, Tensor] = {}
    choices: dict[str, dict[str, float]] = {}
    for layer in reporter.track(layers, f"searching {method.name} scales", len(layers)) if reporter else layers:
        groups = layers[layer]
        asked = {"method": method.name, "calibration": calibration.digest, "schemes": {g: plan[g].name for g in groups}}
        path = folder / f"{layer}.safetensors"
        if not path.exists():
            found = {group: _search_group(source, group, calibration, plan[group], method, quantize) for group in groups}
            _write(path, found, asked)
        layer_factors, layer_choices = _read(path, asked)
        factors |= layer_factors
        choices |= layer_choices
    provenance = {
        "transform": method.name,
        "calibration": calibration.digest,
        "schemes": {group: plan[group].name for group in factors},
        "choices": choices,
        "factors_sha256": _digest(factors),
    }
    return ChannelScales(factors, provenance)


@dataclass(frozen=True)
class OutputLoss:
    """Squared output error of W diag(factors) quantized and multiplied by x / factors, summed over outputs.

    Its mean over all calibration tokens, from their mean of x x^T; under a scheme that quantizes activations its mean over the
    sample rows, each error relative to the row's output: the rounding of a token of massive activations (Sun et al. 2024)
    would outweigh that of all others, though its output, and the residual it is added to, are as large.
    """

    name: str
    weight: Tensor
    statistics: InputStatistics
    scheme: Scheme
    quantize: Quantizer

    def __call__(self, factors: Tensor) -> float:
        """Of `factors` fp32 [in_features]; infinite where the scheme cannot store the scales that they need."""
        try:
            quantized = torch.from_numpy(self.quantize(self.name, self.weight * factors, self.scheme).dequantize())
        except WeightRangeError:
            return math.inf
        if not self.scheme.quantized_activations:
            return self.statistics.loss(quantized.div_(factors).sub_(self.weight))
        static = static_scale(self.statistics.max_abs / factors)
        outputs = quantized_activations(self.statistics.sample / factors, self.scheme, static) @ quantized.T
        exact = self._exact_outputs
        sizes = exact.square().sum(dim=1, dtype=torch.float64).clamp(min=torch.finfo(torch.float32).tiny)
        return float((outputs.sub_(exact).square().sum(dim=1, dtype=torch.float64) / sizes).mean())

    @cached_property
    def _exact_outputs(self) -> Tensor:
        return self.statistics.sample @ self.weight.T


def quantized_activations(rows: Tensor, scheme: Scheme, static: Tensor | None = None) -> Tensor:
    """rows fp32 [T, K] as kernels under `scheme`, which quantizes activations, multiply by them; `static` [1] is its scale."""
    dtype = torch.int8 if scheme.int8_activations else torch.float8_e4m3fn
    codes = torch.empty(rows.shape, dtype=dtype)
    if scheme.static_activations:
        assert static is not None
        quantize_with(rows, codes, static)
        return codes.float() * static
    if scheme.granularity == "channel":
        scales = rows.new_empty(len(rows), 1)
        quantize_rows(rows, codes, scales[:, 0])
        return codes.float() * scales
    scales = rows.new_empty(len(rows), -(-rows.shape[1] // FP8_BLOCK))
    quantize_blocks(rows, codes, scales)
    return codes.float() * scales.repeat_interleave(FP8_BLOCK, 1)[:, : rows.shape[1]]


def _search_group(
    source: Source, group: str, calibration: Calibration, scheme: Scheme, method: ScaleMethod, quantize: Quantizer
) -> tuple[Tensor, dict[str, float]]:
    """The best factors of one group, and what was chosen; ones where nothing proposed is better."""
    weight = source.tensor(f"{group}.weight").to(torch.float32)
    if others := beside(source.architecture, group):
        weight = torch.cat([weight, *(source.tensor(f"{other}.weight").to(torch.float32) for other in others)])
    parts = calibration.parts(group)
    found = [
        _search_part(source.architecture, group, rows, calibration.statistics(part), scheme, method, quantize)
        for part, rows in zip(parts, weight.chunk(len(parts)), strict=True)
    ]
    if len(found) == 1:
        return found[0]
    losses = {name: sum(choice[name] for _, choice in found) for name in ("loss", "unscaled_loss")}
    num_scaled = sum(bool((factors != 1).any()) for factors, _ in found)
    return torch.cat([factors for factors, _ in found]), {"scaled_experts": num_scaled, **losses}


def _search_part(
    architecture: Architecture,
    group: str,
    weight: Tensor,
    statistics: InputStatistics,
    scheme: Scheme,
    method: ScaleMethod,
    quantize: Quantizer,
) -> tuple[Tensor, dict[str, float]]:
    """Of rows that have inputs of their own: all of a group's, or one expert's. Ones where there are none to speak of."""
    best = torch.ones(weight.shape[1] if is_of_experts(group) else num_factors(architecture, group))
    if float(statistics.max_abs.max()) < _LEAST_INPUT:
        return best, {"loss": 0.0, "unscaled_loss": 0.0}

    def shared(columns: Tensor) -> Tensor:
        return sharing(architecture, group, columns)

    channels = Channels(
        mean_input=_positive(shared(statistics.mean_abs).mean(dim=0)),
        rms_input=_positive(shared(statistics.hessian.diagonal()).mean(dim=0).sqrt()),
        max_input=_positive(shared(statistics.max_abs).amax(dim=0)),
        rms_weight=_positive(shared(weight.square().mean(dim=0)).mean(dim=0).sqrt()),
        max_weight=_positive(shared(weight.abs().amax(dim=0)).amax(dim=0)),
    )
    loss = OutputLoss(group, weight, statistics, scheme, quantize)
    best_loss = unscaled_loss = loss(spread(architecture, group, best))
    best_choice: dict[str, float] = {}
    for choice, proposed in method.propose(channels):
        factors = _centred(proposed)
        if (found := loss(spread(architecture, group, factors))) < best_loss:
            best, best_loss, best_choice = factors, found, choice
    return best, {**best_choice, "loss": best_loss, "unscaled_loss": unscaled_loss}


def _positive(channels: Tensor) -> Tensor:
    """Channels that are never used count as all but unused: factors must be finite."""
    return channels.clamp(min=max(1e-5 * float(channels.max()), torch.finfo(torch.float32).smallest_normal))


def _centred(factors: Tensor) -> Tensor:
    """In the unit that puts the largest and the smallest equally far from 1: stored scales stay in fp16's range."""
    return factors / (factors.max() * factors.min()).sqrt()


def _write(path: Path, found: Mapping[str, tuple[Tensor, dict[str, float]]], asked: Mapping[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    choices = {group: choice for group, (_, choice) in found.items()}
    metadata = {"asked": json.dumps(asked), "choices": json.dumps(choices)}
    save_file({group: factors for group, (factors, _) in found.items()}, partial, metadata)
    partial.replace(path)


def _read(path: Path, asked: Mapping[str, object]) -> tuple[dict[str, Tensor], dict[str, dict[str, float]]]:
    """Group -> factors, and what was chosen."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        if json.loads(metadata["asked"]) != asked:
            raise UserError(
                f"a folder of scales must be of one search; {path} holds that of {metadata['asked']}, asked for is "
                f"{json.dumps(asked)}: give another folder, or remove this one"
            )
        return {group: file.get_tensor(group) for group in file.keys()}, json.loads(metadata["choices"])  # noqa: SIM118


def _digest(factors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for group in sorted(factors):
        digest.update(group.encode() + b"\0" + factors[group].numpy().tobytes())
    return digest.hexdigest()
