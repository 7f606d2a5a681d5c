"""From the names of devices to their stages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from artifacts.architecture import Architecture
from artifacts.errors import UserError
from artifacts.layer_groups import kind_of
from artifacts.precision import Scheme
from kernels.cpu.isa import Isa
from kernels.formats.table import cpu_products
from kernels.gpu.target import ARCHS
from optimizer.importers import Source
from optimizer.measure.machine import this_machine
from optimizer.quantization.packed import CPU_LAYOUT, GPU_LAYOUT, Layout
from optimizer.records.ledger import Ledger
from optimizer.records.progress import Reporter
from optimizer.targets.cpu import CpuTarget
from optimizer.targets.target import Act, TargetStages
from search_spaces.schema import SearchSpace
from search_spaces.space import device

_CPU = ("cpu",)


def target_fingerprint(devices: Sequence[str]) -> dict[str, str]:
    """What measurements for `devices` hold for, by name."""
    if tuple(devices) == _CPU:
        return this_machine().fingerprint()
    from optimizer.targets.gpu import gpu_fingerprint

    return gpu_fingerprint(devices)


def target_layout(devices: Sequence[str]) -> Layout:
    """How a bundle for `devices` stores its weights."""
    return CPU_LAYOUT if tuple(devices) == _CPU else GPU_LAYOUT


def open_target(
    devices: Sequence[str],
    space: SearchSpace,
    folder: Path,
    ledger: Ledger,
    reporter: Reporter,
    isa: Isa | None = None,
    act: Act = "bf16",
) -> TargetStages:
    """The stages of `devices`; `folder` keeps what they build: for a CPU for `isa`, or else the best of this one, for GPUs for
    activations of `act`."""
    if tuple(devices) == _CPU:
        return CpuTarget("cpu", space, folder, ledger, reporter, isa)
    # Triton and torch are found out about only where a GPU is the target.
    from optimizer.targets.gpu import GpuTarget

    return GpuTarget(devices, space, folder, ledger, reporter, act)


def offered_schemes(
    space: SearchSpace, devices: Sequence[str], kinds: Iterable[str], architecture: Architecture
) -> Mapping[str, tuple[Scheme, ...]]:
    """The schemes that the space offers to each kind of layer group, less those that a device has no kernels for.

    ValueError where none is left.
    """
    offered = {}
    for kind in kinds:
        schemes = space.precision.groups.of(kind)
        refused = {scheme.name: reason for scheme in schemes if (reason := _refusal(scheme, kind, devices, architecture))}
        offered[kind] = tuple(scheme for scheme in schemes if scheme.name not in refused)
        if not offered[kind]:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
            raise UserError(
                f"no scheme offered for {kind!r} has kernels on {', '.join(devices)} ({reasons}); offer another one"
            )
    return offered


def with_own_schemes(
    source: Source, devices: Sequence[str], offered: Mapping[str, tuple[Scheme, ...]]
) -> Mapping[str, tuple[Scheme, ...]]:
    """`offered`, and the schemes in which a kind of layer groups keeps its codes, if none that is offered does so.

    The first group of a kind stands for all.
    """

    def has_kernels(scheme: Scheme, kind: str) -> bool:
        if tuple(devices) == _CPU:
            return scheme.variant in cpu_products()
        return _refusal(scheme, kind, devices, source.architecture) is None

    groups = {kind_of(group): group for group in reversed(source.architecture.linear_shapes())}
    known = {kind: [scheme for scheme in Scheme.every() if has_kernels(scheme, kind)] for kind in offered}
    keeping = {kind: source.keeping(groups[kind], known[kind]) for kind in offered}
    return {
        kind: schemes if set(schemes) & set(keeping[kind]) else (*keeping[kind], *schemes) for kind, schemes in offered.items()
    }


def _refusal(scheme: Scheme, kind: str, devices: Sequence[str], architecture: Architecture) -> str | None:
    """Why a layer group of `kind` cannot have `scheme` on one of the devices, or None."""
    if tuple(devices) == _CPU:
        return None
    from runtime.gpu.weights import gpu_packing_of, refusal

    if reason := refusal(scheme, kind, architecture):
        return reason
    for name in devices:
        arch = device(name).arch
        if gpu_packing_of(scheme).needs_fp8 and arch is not None and not ARCHS[arch].has_fp8:
            return f"{arch} has no e4m3 in its matrix units"
    return None
