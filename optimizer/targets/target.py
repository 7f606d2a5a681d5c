"""What the stages ask of the device that a bundle is for: one that is here and is measured, or one that is modelled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from artifacts.architecture import Architecture
from artifacts.manifest import Kernels, Limits, Platform
from artifacts.precision import KvDtype, Plan, Scheme
from optimizer.cost.provider import CostProvider
from optimizer.measure.paired_speed import PairedSpeed
from optimizer.measure.workbench import Workbench
from optimizer.measure.workload import Workload
from optimizer.tuning.limits import StepTime
from optimizer.tuning.winner import Tuned
from optimizer.weights.quantized_store import QuantizedStore

Phase = Literal["decode", "prefill"]
Evaluated = Literal["served", "emulated"]
#: what activations are stored as between the kernels of a GPU
Act = Literal["bf16", "f16"]


@dataclass(frozen=True)
class Frozen:
    """A target's part of a bundle. `libraries` are the tools whose versions belong into its provenance."""

    target: Platform
    kernels: tuple[Kernels, ...]
    files: Mapping[str, bytes | Path]
    compiler: str | None
    libraries: tuple[str, ...] = ()
    tuned: tuple[Tuned, ...] = ()
    """What was tuned for the plan that is frozen, beyond what `tune` found."""


class TargetStages(Protocol):
    """The stages that depend on the target. Everything that was measured is a record: asking again measures nothing."""

    @property
    def title(self) -> str:
        """What runs the bundle, such as x86-64-v4 or sm_90."""
        ...

    @property
    def evaluated(self) -> Evaluated:
        """Whether accuracy is that of the kernels that serve, or that of an emulation of their numerics."""
        ...

    def cache_bytes(self, workbench: Workbench, plan: Plan) -> int:
        """What the KV cache may take of the target's memory beside the weights of `plan`."""
        ...

    def num_threads(self, workbench: Workbench) -> int:
        """That run a step in service."""
        ...

    def kv_dtypes(self, architecture: Architecture) -> tuple[KvDtype, ...]:
        """What the space offers for the KV cache of such a model, less what has no kernels. UserError if nothing is left."""
        ...

    def possible_kv_dtypes(self, architecture: Architecture) -> tuple[KvDtype, ...]:
        """What there are kernels for, offered or not."""
        ...

    def baseline(self, is_bf16: bool) -> Scheme:
        """The unquantized scheme, for a checkpoint in bf16 or in another dtype."""
        ...

    def workbench(self, store: QuantizedStore) -> Workbench:
        """Runs any plan, on kernels that are not tuned yet."""
        ...

    def tune(
        self, workbench: Workbench, workload: Workload, offered: Mapping[str, Sequence[Scheme]], baseline: Scheme
    ) -> tuple[Workbench, tuple[Tuned, ...]]:
        """The same on tuned kernels, with the KV block size that was chosen, and what was learned."""
        ...

    def costs(
        self,
        workbench: Workbench,
        schemes: Sequence[Scheme],
        baseline: Scheme,
        workload: Workload,
        kv_dtypes: Sequence[KvDtype],
    ) -> CostProvider:
        """What a step costs under any plan of these schemes, over any of these KV caches; `workbench` has the first."""
        ...

    def step(self, workbench: Workbench, plan: Plan, workload: Workload, size: int, *, decodes: bool) -> StepTime:
        """One step of `size` decoding sequences, or of a prompt of `size` tokens."""
        ...

    def compare(
        self, phase: Phase, baseline: tuple[Workbench, Plan], candidate: tuple[Workbench, Plan], workload: Workload
    ) -> PairedSpeed:
        """A plan against the unquantized model, for one sequence."""
        ...

    def freeze(self, workbench: Workbench, plan: Plan, serving: Limits) -> Frozen:
        """What the bundle needs in order to run `plan` here."""
        ...
