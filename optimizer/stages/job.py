"""What a run has before it measures anything: the request, the model, the target, and where records and files go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from artifacts.errors import UserError
from artifacts.layer_groups import kind_of
from artifacts.precision import Plan, Scheme
from kernels.cpu.isa import Isa
from optimizer.importers import Source, open_random, open_source
from optimizer.measure.workbench import Workbench
from optimizer.records.ledger import Ledger
from optimizer.records.progress import Reporter
from optimizer.search.bands import fitting_schemes
from optimizer.search.earlier import Earlier
from optimizer.spec import ModelSpec
from optimizer.stages.study_name import study_name
from optimizer.targets import TargetStages, offered_schemes, open_target, target_layout, with_own_schemes
from optimizer.transforms import Rotation, refuse_what_cannot_fold, scalable_groups, transformed
from optimizer.weights.prepared_weights import record_sha256, scaled_plan
from optimizer.weights.quantized_store import QuantizedStore
from search_spaces.schema import SearchSpace
from search_spaces.space import device, load_space


def storage_of(spec: ModelSpec, workspace: Path) -> str:
    """The URL of the Optuna storage that keeps what a run in `workspace` measures."""
    return spec.search.storage or f"sqlite:///{workspace}/study.db"


@dataclass(frozen=True)
class Job:
    """All that stages have in common. Records are the specification's, and say themselves what they depend on."""

    spec: ModelSpec
    space: SearchSpace
    source: Source
    """The checkpoint, or shapes alone, with the sampling that the specification states."""
    sources: Mapping[str, str]
    """File of the source -> sha256."""
    base: Source
    """What is scaled and rounded: the source, or it rotated, whose head is a layer group of its own."""
    offered: Mapping[str, tuple[Scheme, ...]]
    """Kind of layer group -> the schemes that it is searched over."""
    scaled: Plan
    """Layer group -> the scheme under which its scales are searched; empty where none are."""
    baseline: Plan
    """The unquantized model: what holds the checkpoint without loss."""
    lossless: Plan
    """The same of what is searched over: a transformed bf16 weight is not representable in bf16 any more."""
    original: QuantizedStore
    """The checkpoint's own weights, which everything is compared with."""
    target: TargetStages
    study_name: str
    folder: Path
    """The study's, in the workspace: libraries, quantized weights, answers."""
    ledger: Ledger
    reporter: Reporter
    earlier: Earlier | None = None
    """A run that this one begins from."""
    run: int = 0
    """The number of the lease by which this run holds the storage, where it does."""

    @classmethod
    def open(
        cls,
        spec: ModelSpec,
        workspace: Path,
        reporter: Reporter,
        earlier: Earlier | None = None,
        kernels: str = "kernels",
        isa: Isa | None = None,
    ) -> Job:
        """Opens the model and its target, whose kernels go to the folder of that name in the study's, for `isa` or the best.

        UserError, or a kind of it, for what does not go together.
        """
        if spec.num_devices > 1 and not spec.is_planning:
            raise UserError(
                f"nothing here runs a model on several devices, got {spec.target}: they are planned for by shapes alone; give "
                "source: random and config, or one device"
            )
        if spec.devices == ("cpu",) and "activations" in spec.model_fields_set:
            raise UserError("activations is for GPUs, and kernels of a CPU compute in fp32; remove the key, or give --gpu")
        space = load_space(spec.search.space, device(spec.devices[0]).kind)
        opened = open_source(spec.source, spec.adapter) if spec.config is None else open_random(spec.config)
        source = replace(opened, generation_config=spec.generation.over(opened.generation_config))
        sources, quantization, base = source.sha256(), spec.quantization, source
        if quantization.transform:
            refuse_what_cannot_fold(source.architecture)
        if quantization.rotates:
            base = transformed(source, Rotation.random(source.architecture, seed=spec.seed))
        shapes, offered = base.architecture.linear_shapes(), _offered(space, spec, base)
        scaled = scaled_plan(quantization.scales, scalable_groups(base.architecture), offered) if quantization.scales else {}
        study = study_name(spec, sources, space)
        folder = workspace / study
        folder.mkdir(parents=True, exist_ok=True)
        known = earlier.records if earlier else {}
        ledger = Ledger(storage_of(spec, workspace), spec.name, reporter.say, known=known)
        target = open_target(spec.devices, space, folder / kernels, ledger, reporter, isa, spec.activations)
        return cls(
            spec=spec,
            space=space,
            source=source,
            sources=sources,
            base=base,
            offered=offered,
            scaled=scaled,
            baseline=dict.fromkeys(source.architecture.linear_shapes(), target.baseline(source.is_bf16)),
            lossless=dict.fromkeys(shapes, target.baseline(source.is_bf16 and not quantization.transform)),
            original=QuantizedStore(source, folder / "weights", target_layout(spec.devices)),
            target=target,
            study_name=study,
            folder=folder,
            ledger=ledger,
            reporter=reporter,
            earlier=earlier,
        )

    def on(self, source: Source) -> Job:
        """The same over `source`: `base` as it was prepared, whose rare experts may have layer groups of their own."""
        (lossless,) = set(self.lossless.values())
        return replace(
            self,
            base=source,
            offered=_offered(self.space, self.spec, source),
            lossless=dict.fromkeys(source.architecture.linear_shapes(), lossless),
        )

    @property
    def baseline_scheme(self) -> Scheme:
        return next(iter(self.baseline.values()))

    @property
    def schemes(self) -> list[Scheme]:
        """The unquantized one, then every other that is offered to a kind."""
        return list(dict.fromkeys([self.baseline_scheme, *(scheme for offered in self.offered.values() for scheme in offered)]))

    @property
    def request(self) -> str:
        """Digest of what is asked for: a worker's must be its search's."""
        return sha256(f"{self.spec.digest(self.sources)} {self.space.model_dump_json()}".encode()).hexdigest()

    def uniform_changes(self) -> dict[str, Plan]:
        """Scheme -> every layer group that is offered it, in it: together they have all codes that a plan may have."""
        shapes = self.base.architecture.linear_shapes()
        names = {scheme.name: scheme for scheme in self.schemes}
        return {
            name: {group: scheme for group in shapes if scheme in self.offered[kind_of(group)]}
            for name, scheme in names.items()
        }

    @property
    def base_folder(self) -> Path:
        """Where what is made of `base` lies, so that weights of two rotations never mix."""
        return self.folder / f"rotation-{record_sha256(self.base)[:16]}" if self.base is not self.source else self.folder

    @property
    def has_static_activations(self) -> bool:
        """Whether a scheme is offered whose activations are rounded under a calibrated scale."""
        return any(scheme.static_activations for schemes in self.offered.values() for scheme in schemes)

    def unquantized(self, workbench: Workbench) -> tuple[Workbench, Plan]:
        """The checkpoint's own weights on the kernels of `workbench`."""
        return workbench.on(self.original), self.baseline


def _offered(space: SearchSpace, spec: ModelSpec, source: Source) -> dict[str, tuple[Scheme, ...]]:
    """Kind of layer group -> the schemes of the space that its shapes and kernels allow, and those of its own codes."""
    shapes = source.architecture.linear_shapes()
    schemes = offered_schemes(space, spec.devices, dict.fromkeys(map(kind_of, shapes)), source.architecture)
    if not spec.quantization.transform:
        schemes = with_own_schemes(source, spec.devices, schemes)
    return fitting_schemes(shapes, schemes)
