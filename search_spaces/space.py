"""The spaces and devices that ship with the package, and a user's changes to them."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from artifacts.errors import UserError
from search_spaces.located_yaml import Document
from search_spaces.schema import Device, DeviceKind, SearchSpace

_ROOT = files("search_spaces")
LARGEST_COUNT = 1024
#: names of devices have an x in them, too
_COUNTED = re.compile(r"(?P<count>[^a-z]*)x(?P<name>[a-z].*)")


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
    return _device(*_text(f"devices/{name}.yaml"))


@cache
def _device(text: str, path: str) -> Device:
    """Kept: a run asks for a device some fifty times."""
    return Document.parse(text, path).validate(Device)


def counted(text: str) -> tuple[int, str]:
    """How many devices `text` means, and of which name: `8xh200`, or `h200` for one. UserError for a count that is none."""
    found = None if text in device_names() else _COUNTED.fullmatch(text)
    if found is None:
        return 1, text
    count, name = found["count"], found["name"]
    if not (count.isascii() and count.isdigit() and 1 <= int(count) <= LARGEST_COUNT) or device(name).kind != "gpu":
        raise UserError(
            f"several devices are COUNTxGPU, such as 8xh200, with a whole count from 1 to {LARGEST_COUNT}; got {text!r}"
        )
    return int(count), name


def device_names() -> tuple[str, ...]:
    """Every known device."""
    return _names(_ROOT / "devices")


def buildable_names() -> tuple[str, ...]:
    """The devices that bundles can be built for."""
    return tuple(name for name in device_names() if device(name).buildable)


def _names(folder: Traversable) -> tuple[str, ...]:
    return tuple(sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")))


def _shipped(path: str) -> Document:
    return Document.parse(*_text(path))


def _text(path: str) -> tuple[str, str]:
    """A shipped file's text, and how messages name it."""
    return _ROOT.joinpath(path).read_text(encoding="utf-8"), f"search_spaces/{path}"
