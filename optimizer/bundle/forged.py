"""What a run decided and measured: the only thing that a bundle is emitted from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from artifacts.manifest import Serving
from artifacts.precision import KvDtype, Plan, Scheme
from optimizer.importers import Source
from optimizer.measure.paired_speed import PairedSpeed
from optimizer.measure.workbench import Workbench
from optimizer.measure.workload import Workload
from optimizer.search.accuracy import Judge
from optimizer.search.kv_cache import KvLoss
from optimizer.search.precision import Trial
from optimizer.search.proof import Proven
from optimizer.search.sensitivity import Sensitivities
from optimizer.spec import ModelSpec
from optimizer.targets.target import Evaluated, Frozen
from optimizer.tuning.choice import Tuned
from optimizer.tuning.limits import StepTime


@dataclass(frozen=True)
class Forged:
    """All that a bundle is made of, decided and measured."""

    spec: ModelSpec
    source: Source
    sources: Mapping[str, str]
    study_name: str
    title: str
    evaluated: Evaluated
    baseline: Scheme
    baseline_bytes: int
    workbench: Workbench
    tuned: tuple[Tuned, ...]
    workload: Workload
    sensitivities: Sensitivities
    kv_losses: Mapping[KvDtype, KvLoss]
    """Of the KV caches that were searched over."""
    trials: tuple[Trial, ...]
    proof: Judge
    """The texts that the plan was proved on, with the unquantized model's logits."""
    proven: Proven
    plan: Plan
    stored_codes: tuple[str, ...]
    """Which layer groups keep the codes that the checkpoint came with, and which do not, in sentences."""
    serving: Serving
    surface: tuple[StepTime, ...]
    decode_speed: PairedSpeed
    prefill_speed: PairedSpeed
    frozen: Frozen
