"""KL that was measured before, kept beside the exports: the same weights by the same engine on the same text lose the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.worker_process import ADAPTERS


def score_key(
    model: str, adapter: str, engine: Sequence[str], settings: Sequence[object], sequences: Sequence[Sequence[int]]
) -> str:
    """sha256 of all that a score depends on: what is loaded (content, and what follows its #), the engine's packages and
    adapter, the threads and the processor in `settings`, the token ids. The float weights are those of the folder that the
    scores are kept in.
    """
    path, _, kind = model.partition("#")
    content = [
        _content(Path(path)),
        kind,
        *engine,
        (ADAPTERS / f"{adapter}.py").read_text(encoding="utf-8"),
        *map(str, settings),
        [list(ids) for ids in sequences],
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


class KeptScores:
    """Records of `optimizer.evaluation.Evaluation` by key, in one file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._records: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def get(self, key: str) -> dict[str, Any] | None:
        return self._records.get(key)

    def keep(self, key: str, record: dict[str, Any]) -> None:
        self._records[key] = record
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps(self._records, indent=1) + "\n", encoding="utf-8")
        partial.replace(self._path)


def _content(path: Path) -> str:
    """sha256 of a file, or of all files below a folder with their names."""
    files: Iterable[Path] = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as opened:
            digest.update(f"{file.relative_to(path)} {hashlib.file_digest(opened, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()
