"""Open a bundle: nothing in it is mapped or run before all of it is verified."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from artifacts.canonical import check_path
from artifacts.errors import (
    DeviceError,
    ExtraFileError,
    FileTypeError,
    HashMismatchError,
    LinkError,
    MissingFileError,
    NotABundleError,
    PlanningOnlyError,
    SizeMismatchError,
    WeightsError,
)
from artifacts.manifest import MANIFEST_NAME, FileRecord, Manifest, Platform
from artifacts.plan_folder import refuse_plan
from artifacts.weights import Array, map_tensors


@dataclass(frozen=True)
class Bundle:
    """A verified bundle. `tensors` are read-only views of the mapped weight files; bfloat16 travels as uint16."""

    root: Path
    manifest: Manifest
    tensors: Mapping[str, Array]

    def path(self, name: str) -> Path:
        """Where the file `name` of the manifest lies; MissingFileError if the manifest does not list it."""
        if name not in self.manifest.files:
            raise MissingFileError(f"{self.root}: the bundle has no file {name!r}", name)
        return self.root / name

    def read(self, name: str) -> bytes:
        """The bytes of the file `name`; MissingFileError if the manifest does not list it."""
        return self.path(name).read_bytes()


def open_bundle(
    folder: Path, *, machine: str, cpu_flags: frozenset[str], gpu_arch: Callable[[], str | None] = lambda: None
) -> Bundle:
    """Verify the bundle in `folder` for this host, then map its weights.

    `machine` is platform.machine(), `cpu_flags` are the host's features under the names of /proc/cpuinfo, `gpu_arch` finds the
    architecture of the host's GPU and is asked only where the bundle is for one.
    Raises the BundleError of the first rule that is broken.
    """
    manifest = verify_bundle(folder)
    if manifest.purpose == "planning":
        raise PlanningOnlyError(
            f"{folder}: this bundle was made for planning, of shapes without weights, and cannot be served; "
            "run optimize on a real checkpoint",
            MANIFEST_NAME,
        )
    if manifest.target.archs:
        check_gpu(manifest.target, gpu_arch())
    else:
        check_device(manifest.target, machine=machine, cpu_flags=cpu_flags)
    root = folder.resolve()
    tensors: dict[str, Array] = {}
    for path in manifest.weight_files:
        shard = map_tensors(root / path)
        if twice := sorted(tensors.keys() & shard.keys()):
            raise WeightsError(f"{path}: a tensor lies in one shard only, {twice[0]!r} is in two; build the bundle again", path)
        tensors |= shard
    return Bundle(root, manifest, tensors)


def verify_bundle(folder: Path) -> Manifest:
    """The manifest of the bundle in `folder`, after every file of it was checked: set, names, kinds, sizes, sha256.

    Whether this host can run it is not checked. Raises the BundleError of the first rule that is broken.
    """
    manifest = read_manifest(folder)
    found = dict(_walk(folder, ""))
    found.pop(MANIFEST_NAME)
    if missing := sorted(manifest.files.keys() - found.keys()):
        raise MissingFileError(f"{missing[0]}: a file that the manifest lists is missing; copy the bundle again", missing[0])
    if extra := sorted(found.keys() - manifest.files.keys()):
        raise ExtraFileError(f"{extra[0]}: the manifest does not list this file; remove it from the bundle", extra[0])
    for path, record in sorted(manifest.files.items()):
        _check_content(path, found[path], record)
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the bundle in `folder`, checked in itself; no other file is looked at."""
    path = folder / MANIFEST_NAME
    if path.is_symlink():
        raise _link(MANIFEST_NAME)
    if not path.is_file():
        refuse_plan(folder)
        raise NotABundleError(f"{folder} must be a folder with a {MANIFEST_NAME}; give the path of a bundle", folder)
    return Manifest.parse(path.read_bytes())


def check_gpu(target: Platform, arch: str | None) -> None:
    """DeviceError unless the host's GPU is of an architecture that the bundle has kernels for."""
    if arch not in target.archs:
        raise DeviceError(
            f"the bundle has kernels for {' and '.join(target.archs)} ({target.device}), and this host has "
            f"{'no GPU' if arch is None else arch}; serve it there, or build it for this device"
        )


def check_device(target: Platform, *, machine: str, cpu_flags: frozenset[str]) -> None:
    """DeviceError unless a host of this `machine` with these `cpu_flags` can run a bundle for `target`."""
    if target.device != "cpu":
        raise DeviceError(f"the bundle is for device {target.device!r} but names no architecture; build it again")
    if target.machine not in (None, machine):
        raise DeviceError(f"the bundle is for machine {target.machine!r}, this is {machine!r}; build it on this machine")
    if lacking := sorted(set(target.cpu_flags) - cpu_flags):
        raise DeviceError(
            f"the bundle's kernels ({target.isa}) need CPU features that this host lacks: {', '.join(lacking)}; "
            "build it on this machine"
        )


def _walk(folder: Path, prefix: str) -> Iterator[tuple[str, Path]]:
    """Every file below `folder` as (path in the bundle, path); refuses links, special files and bad names."""
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            path = prefix + entry.name
            if entry.is_symlink():
                raise _link(path)
            check_path(path)
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(folder / entry.name, f"{path}/")
            elif entry.is_file(follow_symlinks=False):
                yield path, folder / entry.name
            else:
                raise FileTypeError(f"{path}: a bundle holds regular files and folders only; remove it", path)


def _check_content(path: str, location: Path, record: FileRecord) -> None:
    with location.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size != record.size:
            raise SizeMismatchError(f"{path}: must have {record.size} bytes, has {size}; copy the bundle again", path)
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != record.sha256:
        raise HashMismatchError(
            f"{path}: sha256 must be {record.sha256}, is {actual}; the file was changed, copy the bundle again",
            path,
        )


def _link(path: str) -> LinkError:
    return LinkError(f"{path}: a bundle must hold no links; put the file itself in its place", path)
