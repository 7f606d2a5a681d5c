"""Two fingerprints of what a bundle's making depends on -> what differs, and which records that makes void. Pure.

Codes hold for one checkpoint, accuracy for one set of kernel bits and texts, times for one machine. What a fingerprint names is
`kind` or `kind: detail`.
"""

from __future__ import annotations

from collections.abc import Mapping

from optimizer.nights.night import Change, Voided

_ALL: tuple[Voided, ...] = ("codes", "accuracy", "times")
#: kind -> what is void where it differs; every record for a kind that is not here, to be safe
_VOIDS: Mapping[str, tuple[Voided, ...]] = {
    "checkpoint": ("codes", "accuracy"),
    "text": ("accuracy",),
    "set": ("accuracy",),
    "calibration text": ("codes", "accuracy"),
    "trace": ("times",),
    "search space": (),
    "model.yaml: evaluation": ("accuracy",),
    "model.yaml: quantization": ("codes", "accuracy"),
    "model.yaml: seed": ("accuracy",),
    "model.yaml: workload": ("times",),
    "model.yaml: gate": (),
    "model.yaml: search": (),
    "model.yaml: generation": (),
    "model.yaml: answers": (),
    "compiler": ("accuracy", "times"),
    "compiler_flags": ("accuracy", "times"),
    "isa": ("accuracy", "times"),
    "kernel_sources": ("accuracy", "times"),
    "cpu_model": ("times",),
    "cpu_flags": ("times",),
    "microcode": ("times",),
    "num_cores": ("times",),
    "cpu_quota": ("times",),
    "driver": ("times",),
}
#: what a bundle itself is of, whatever it was measured on: with another, the incumbent is not what is asked for any more
_SERVED = ("checkpoint", "model.yaml: generation", "model.yaml: answers")


def changes(then: Mapping[str, str], now: Mapping[str, str]) -> tuple[Change, ...]:
    """What differs, by name."""
    names = sorted(name for name in then.keys() | now.keys() if then.get(name) != now.get(name))
    return tuple(Change(name=name, then=then.get(name), now=now.get(name), voids=_voided(name)) for name in names)


def asks_for_another(found: tuple[Change, ...]) -> bool:
    """Whether what model.yaml asks to serve is no longer what the incumbent is."""
    return any(_kind(change.name, _SERVED) is not None for change in found)


def _voided(name: str) -> tuple[Voided, ...]:
    kind = _kind(name, tuple(_VOIDS))
    return _ALL if kind is None else _VOIDS[kind]


def _kind(name: str, kinds: tuple[str, ...]) -> str | None:
    return next((kind for kind in kinds if name == kind or name.startswith((f"{kind}:", f"{kind}."))), None)
