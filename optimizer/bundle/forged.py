"""What a run decided and measured: the only thing that a bundle is emitted from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from artifacts.manifest import Limits
from artifacts.precision import KvDtype, Plan
from optimizer.importers import Source
from optimizer.measure.paired_speed import PairedSpeed
from optimizer.measure.workbench import Workbench
from optimizer.search.accuracy import Judge
from optimizer.search.kv_cache import KvLoss
from optimizer.search.proof import Proven
from optimizer.search.sensitivity import Sensitivities
from optimizer.stages.job import Job
from optimizer.stages.kernels import TunedKernels
from optimizer.stages.search import Searched
from optimizer.targets import Frozen
from optimizer.tuning.limits import StepTime


@dataclass(frozen=True)
class Forged:
    """All that a bundle is made of, decided and measured."""

    job: Job
    kernels: TunedKernels
    kv_losses: Mapping[KvDtype, KvLoss]
    """Of the KV caches that were searched over."""
    sensitivities: Sensitivities
    searched: Searched
    proof: Judge
    """What the texts that the plan was proved on begin with, with the unquantized model's logits."""
    proven: Proven
    workbench: Workbench
    """With the weights and the KV cache that were proved."""
    plan: Plan
    stored_codes: tuple[str, ...]
    """Which layer groups keep the codes that the checkpoint came with, and which do not, in sentences."""
    serving: Limits
    surface: list[StepTime]
    records: Mapping[str, object]
    """All that the run asked its ledger for."""
    decode_speed: PairedSpeed
    prefill_speed: PairedSpeed
    frozen: Frozen

    @property
    def source(self) -> Source:
        """The model as it was searched over, transforms included."""
        return self.workbench.store.source

    @property
    def baseline_bytes(self) -> int:
        """Of the unquantized model's tensors."""
        return self.job.original.weight_bytes(self.job.baseline)
