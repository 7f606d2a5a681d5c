"""The spaces and devices that ship with the package, and a user's changes to them."""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from artifacts.errors import UserError
from search_spaces.located_yaml import Document
from search_spaces.schema import Device, DeviceKind, SearchSpace

_ROOT = files("search_spaces")


def load_space(overrides: Path | None = None, kind: DeviceKind = "cpu") -> SearchSpace:
    """The shipped search space of one kind of device, changed by the file `overrides`.

    That file has the keys of `SearchSpace` (precision, serving, kernels), any part of them; a list replaces the shipped list.
    Raises LocatedError with file and line.
    """
    space = _shipped(f"{kind}/precision.yaml").under("precision").merged(_shipped(f"{kind}/serving.yaml").under("serving"))
    for op in _names(_ROOT / kind / "kernels"):
        space = space.merged(_shipped(f"{kind}/kernels/{op}.yaml").under("kernels", op))
    if overrides is not None:
        space = space.overridden(Document.load(overrides))
    return space.validate(SearchSpace)


def device(name: str) -> Device:
    """The device called `name`; UserError lists those that are known."""
    if name not in device_names():
        raise UserError(f"a device is one of {', '.join(device_names())}; got {name!r}")
    return _shipped(f"devices/{name}.yaml").validate(Device)


def device_names() -> tuple[str, ...]:
    """Every known device."""
    return _names(_ROOT / "devices")


def buildable_names() -> tuple[str, ...]:
    """The devices that bundles can be built for."""
    return tuple(name for name in device_names() if device(name).buildable)


def _names(folder: Traversable) -> tuple[str, ...]:
    return tuple(sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")))


def _shipped(path: str) -> Document:
    return Document.parse(_ROOT.joinpath(path).read_text(encoding="utf-8"), f"search_spaces/{path}")
