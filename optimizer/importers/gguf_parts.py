"""A model in one GGUF file or in several, as llama.cpp's gguf-split and the gguf package cut it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optimizer.importers.errors import DamagedFile, MissingFile
from optimizer.importers.gguf_file import GgufFile, GgufTensor

#: name, number from 1 on, number of parts
_NAME = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")
_COUNT, _NUMBER, _TENSORS = "split.count", "split.no", "split.tensors.count"


def open_parts(path: Path) -> tuple[GgufFile, tuple[Path, ...]]:
    """The whole model of which `path` is a part, any of them, and the files that hold it.

    The first part has the metadata of all. Raises what GgufFile.open does, MissingFile where a part is not there, and
    DamagedFile where one is there twice, or is of another model.
    """
    given = GgufFile.open(path)
    count = given.metadata.get(_COUNT, 1)
    if not isinstance(count, int):
        raise DamagedFile(f"{path}: {_COUNT} must be a number of parts, got {count!r}")
    if count <= 1:
        return given, (path,)
    paths = _paths(path, count)
    missing = [part.name for part in paths if not part.exists()]
    if missing:
        raise MissingFile(f"{path} is one of {count} parts, which must lie in one folder; missing: {', '.join(missing)}")
    parts = [given if part == path else GgufFile.open(part) for part in paths]
    _check_numbers(parts)
    whole = GgufFile(parts[0].path, parts[0].metadata, _tensors(parts))
    return whole, tuple(paths)


def _paths(path: Path, count: int) -> list[Path]:
    found = _NAME.fullmatch(path.name)
    if found is None or int(found[3]) != count:
        raise DamagedFile(
            f"{path} is one of {count} parts and must be named NAME-00001-of-{count:05}.gguf, with its own number from 1 to "
            f"{count}; rename it, and the others, as they were"
        )
    return [path.with_name(f"{found[1]}-{number + 1:05}-of-{count:05}.gguf") for number in range(count)]


def _check_numbers(parts: Sequence[GgufFile]) -> None:
    stated = [_said(part.metadata) for part in parts]
    for index, (part, said) in enumerate(zip(parts, stated, strict=True)):
        if said[1:] != stated[0][1:]:
            raise DamagedFile(
                f"{part.path} is of another model: it says {_COUNT} = {said[1]} and {_TENSORS} = {said[2]}, and "
                f"{parts[0].path.name} says {stated[0][1]} and {stated[0][2]}; fetch it again"
            )
        if said[0] != index:
            raise DamagedFile(
                f"{part.path} is a part twice: its name makes it number {index}, from 0 on, and its {_NUMBER} is {said[0]}; "
                "fetch it again"
            )


def _said(metadata: Mapping[str, Any]) -> tuple[object, object, object]:
    return metadata.get(_NUMBER), metadata.get(_COUNT), metadata.get(_TENSORS)


def _tensors(parts: Sequence[GgufFile]) -> dict[str, GgufTensor]:
    tensors: dict[str, GgufTensor] = {}
    for part in parts:
        if twice := part.tensors.keys() & tensors.keys():
            name = min(twice)
            raise DamagedFile(f"{name} is both in {tensors[name].path} and in {part.path}: one of them is of another model")
        tensors |= part.tensors
    stated = parts[0].metadata.get(_TENSORS, len(tensors))
    if stated != len(tensors):
        raise DamagedFile(f"{parts[0].path} says that its parts have {stated} tensors, and they have {len(tensors)}")
    return tensors
