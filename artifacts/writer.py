"""Write a bundle: whole or not at all, and always the same bytes for the same content."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

from artifacts.canonical import check_path
from artifacts.durable import created, sync_folder, sync_tree
from artifacts.errors import DestinationError
from artifacts.manifest import MANIFEST_NAME, WEIGHTS_FOLDER, Deployment, FileRecord, Manifest
from artifacts.weights import SHARD_BYTES, Array, shard_names, shard_tensors, write_shard

_CHUNK_BYTES = 1 << 20


def write_bundle(
    destination: Path,
    deployment: Deployment,
    tensors: Mapping[str, Array],
    files: Mapping[str, bytes | Path],
    *,
    shard_bytes: int = SHARD_BYTES,
    admit: Callable[[Path], object] = lambda folder: None,
) -> Manifest:
    """Write the bundle at `destination` and return its manifest.

    `tensors` are written one at a time (mapped arrays are never held in memory); `files` gives every other file but
    the manifest, as bytes or as a file to copy. `admit` is called with the folder that the whole bundle lies in before it
    is put at `destination`; where it raises, nothing is left of the bundle. A bundle that is there already is replaced, by
    two renames at the end.
    Raises DestinationError if `destination` is anything else or `files` holds what the writer writes, PathRuleError and
    WeightsError for names and dtypes that a bundle cannot hold, ManifestError if the files do not suit `deployment`.
    """
    destination = destination.absolute()
    _check_replaceable(destination)
    for path in files:
        check_path(path)
        if path == MANIFEST_NAME or path.startswith(f"{WEIGHTS_FOLDER}/"):
            raise DestinationError(f"{path} is written by the writer itself; leave it out of files", path)
    destination.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", suffix=".writing", dir=destination.parent))
    try:
        manifest = _fill(temporary, deployment, tensors, files, shard_bytes)
        admit(temporary)
        _install(temporary, destination)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return manifest


def _fill(
    root: Path,
    deployment: Deployment,
    tensors: Mapping[str, Array],
    files: Mapping[str, bytes | Path],
    shard_bytes: int,
) -> Manifest:
    records: dict[str, FileRecord] = {}
    shards = shard_tensors(tensors, shard_bytes) if tensors else []
    for name, shard in zip(shard_names(len(shards)), shards, strict=True):
        path = f"{WEIGHTS_FOLDER}/{name}"
        with created(root / path) as file:
            sha256, size = write_shard(file, shard)
        records[path] = FileRecord(sha256=sha256, size=size)
    for path, source in files.items():
        with created(root / path) as file:
            records[path] = _copy(source, file)
    manifest, data = Manifest.seal(deployment, records)
    with created(root / MANIFEST_NAME) as file:
        file.write(data)
    sync_tree(root)
    return manifest


def _copy(source: bytes | Path, file: BinaryIO) -> FileRecord:
    if isinstance(source, bytes):
        file.write(source)
        return FileRecord(sha256=hashlib.sha256(source).hexdigest(), size=len(source))
    digest, size = hashlib.sha256(), 0
    with source.open("rb") as origin:
        while chunk := origin.read(_CHUNK_BYTES):
            file.write(chunk)
            digest.update(chunk)
            size += len(chunk)
    return FileRecord(sha256=digest.hexdigest(), size=size)


def _check_replaceable(destination: Path) -> None:
    if destination.is_symlink() or (destination.exists() and not (destination / MANIFEST_NAME).is_file()):
        raise DestinationError(
            f"{destination} must not exist yet or must be a bundle (a folder with {MANIFEST_NAME}), and is neither; "
            "move it away or choose another output",
            destination,
        )


def _install(temporary: Path, destination: Path) -> None:
    """Put `temporary` at `destination`. A bundle that is there is renamed away first, and back if that fails."""
    _check_replaceable(destination)
    if not destination.exists():
        temporary.rename(destination)
        sync_folder(destination.parent)
        return
    retired = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", suffix=".retired", dir=destination.parent))
    destination.rename(retired)
    try:
        temporary.rename(destination)
    except BaseException:
        retired.rename(destination)
        raise
    sync_folder(destination.parent)
    shutil.rmtree(retired, ignore_errors=True)
