"""Compiled kernels in a folder, found by what they compute: no Triton and no compiler is needed to read them.

`kernels.json` is canonical JSON: {"version": 1, "arch": ..., "kernels": [{"source": KernelSource, "metadata": BinaryMetadata,
"sha256": of the image}, ...]}, sorted by identity of the source. An image is `<sha256>.image` beside it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from kernels.gpu.binary import BinaryMetadata
from kernels.gpu.kernel_source import KernelSource
from kernels.gpu.refusals import ImageDigestMismatch, MissingKernel, TableRefused
from kernels.gpu.target import ARCHS

TABLE = "kernels.json"
_VERSION = 1


@dataclass(frozen=True)
class FrozenKernel:
    """A compiled kernel with all that launching it needs."""

    source: KernelSource
    metadata: BinaryMetadata
    image: bytes

    @property
    def where(self) -> str:
        """For messages."""
        return f"{self.source.op}.{self.source.function}"


class FrozenKernels:
    """The kernels of one known architecture. TableRefused for two of one source, or one for another architecture."""

    def __init__(self, arch: str, kernels: Iterable[FrozenKernel]) -> None:
        if arch not in ARCHS:
            raise TableRefused(f"a table is for one of {', '.join(ARCHS)}; this one is for {arch!r}")
        found: dict[str, FrozenKernel] = {}
        for kernel in kernels:
            if kernel.source.arch != arch:
                raise TableRefused(
                    f"a table holds kernels of one architecture, {arch}; {kernel.where} is for {kernel.source.arch}"
                )
            if found.setdefault(kernel.source.identity, kernel) != kernel:
                raise TableRefused(
                    f"a table holds one kernel of a source; there are two of {kernel.where}, {kernel.source.identity}"
                )
        self.arch = arch
        self.kernels: Mapping[str, FrozenKernel] = MappingProxyType(dict(sorted(found.items())))

    @classmethod
    def read(cls, folder: Path) -> FrozenKernels:
        """Of a folder that `write` made. TableRefused or ImageDigestMismatch, naming the file, for another."""
        path = folder / TABLE
        try:
            table = json.loads(path.read_text(encoding="utf-8"))
            if table["version"] != _VERSION:
                raise TableRefused(
                    f"{path} has version {table['version']}, this code reads {_VERSION}; freeze the kernels again"
                )
            entries = [
                (_source(e["source"]), BinaryMetadata.from_json(e["metadata"]), str(e["sha256"])) for e in table["kernels"]
            ]
            arch = str(table["arch"])
        except TableRefused:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise TableRefused(f"{path} must be a table of frozen kernels: {type(error).__name__}: {error}") from error
        return cls(arch, [FrozenKernel(source, metadata, _image(folder, digest)) for source, metadata, digest in entries])

    def write(self, folder: Path) -> None:
        """Into `folder`, which is made; the same kernels give the same bytes."""
        folder.mkdir(parents=True, exist_ok=True)
        entries = []
        for kernel in self.kernels.values():
            digest = hashlib.sha256(kernel.image).hexdigest()
            (folder / _image_name(digest)).write_bytes(kernel.image)
            entries.append({"source": kernel.source.to_json(), "metadata": kernel.metadata.to_json(), "sha256": digest})
        table = {"version": _VERSION, "arch": self.arch, "kernels": entries}
        text = json.dumps(table, indent=2, sort_keys=True, allow_nan=False)
        (folder / TABLE).write_text(text + "\n", encoding="utf-8")

    def find(self, source: KernelSource) -> FrozenKernel:
        """The kernel of a launch; MissingKernel says which one there is none for."""
        if kernel := self.kernels.get(source.identity):
            return kernel
        similar = [k.source for k in self.kernels.values() if (k.source.op, k.source.function) == (source.op, source.function)]
        raise MissingKernel(
            f"every launch needs its frozen kernel; there is none of {source.op}.{source.function} for {source.arch} with "
            f"signature {dict(source.signature)}, constants {dict(source.constants)}, {source.num_warps} warps, "
            f"{source.num_stages} stages and maxnreg {source.maxnreg}. {_nearest(source, similar)}; "
            "plan with the frozen tuning points, or freeze this kernel"
        )


def _nearest(source: KernelSource, others: list[KernelSource]) -> str:
    """How the most similar kernel of the same function differs."""
    if not others:
        return f"The table has no kernel of {source.op}.{source.function}"
    differences = min((_differences(source, other) for other in others), key=len)
    return f"The nearest of {len(others)} has {', '.join(differences)}"


def _differences(source: KernelSource, other: KernelSource) -> list[str]:
    mine, its = _flat(source), _flat(other)
    return [f"{name} {its.get(name)!r}" for name in sorted(mine | its) if mine.get(name) != its.get(name)]


def _flat(source: KernelSource) -> dict[str, object]:
    options = {"num_warps": source.num_warps, "num_stages": source.num_stages, "maxnreg": source.maxnreg}
    return {**dict(source.signature), **dict(source.constants), **options}


def _source(fields: Mapping[str, Any]) -> KernelSource:
    signature = tuple((str(name), str(kind)) for name, kind in fields["signature"])
    return KernelSource(**{**fields, "signature": signature, "constants": tuple(sorted(fields["constants"].items()))})


def _image_name(digest: str) -> str:
    return f"{digest}.image"


def _image(folder: Path, digest: str) -> bytes:
    path = folder / _image_name(digest)
    try:
        image = path.read_bytes()
    except OSError as error:
        raise ImageDigestMismatch(f"{path} must hold an image of the table: {error}; copy the folder again") from error
    if (found := hashlib.sha256(image).hexdigest()) != digest:
        raise ImageDigestMismatch(f"{path} must have the sha256 of its name; it has {found}; copy the folder again")
    return image
