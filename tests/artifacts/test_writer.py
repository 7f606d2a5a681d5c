"""A bundle is written whole or not at all, and always as the same bytes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from artifacts import errors
from artifacts.reader import verify_bundle
from artifacts.weights import map_tensors


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mode & 0o777)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_two_writes_are_identical_whatever_the_umask_and_the_order(tmp_path: Path, parts: Any) -> None:
    parts.write(tmp_path / "first")
    umask = os.umask(0o077)
    try:
        parts.but(tensors=dict(reversed(parts.tensors.items())), files=dict(reversed(parts.files.items()))).write(
            tmp_path / "second"
        )
    finally:
        os.umask(umask)
    assert snapshot(tmp_path / "first") == snapshot(tmp_path / "second")
    assert {mode for _, mode in snapshot(tmp_path / "first").values()} == {0o644}


def test_shards_hold_all_tensors_once(tmp_path: Path, parts: Any) -> None:
    manifest = parts.write(tmp_path / "bundle", shard_bytes=16_000)
    assert manifest.weight_files[0] == f"weights/model-00001-of-{len(manifest.weight_files):05d}.safetensors"
    assert len(manifest.weight_files) > 2
    opened = parts.open(tmp_path / "bundle")
    for name, array in parts.tensors.items():
        np.testing.assert_array_equal(opened.tensors[name], array)


def test_mapped_tensors_and_files_are_copied(tmp_path: Path, bundle: Path, parts: Any) -> None:
    (tmp_path / "tokenizer.json").write_bytes(parts.files["tokenizer.json"])
    again = parts.but(
        tensors=map_tensors(bundle / "weights/model.safetensors"),
        files={**parts.files, "tokenizer.json": tmp_path / "tokenizer.json"},
    )
    again.write(tmp_path / "again")
    assert snapshot(tmp_path / "again") == snapshot(bundle)


def test_a_bundle_is_replaced(bundle: Path, parts: Any) -> None:
    parts.but(files={**parts.files, "report.html": b"new"}).write(bundle)
    verify_bundle(bundle)
    assert (bundle / "report.html").read_bytes() == b"new"
    assert os.listdir(bundle.parent) == ["bundle"]


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_anything_else_is_not_replaced(tmp_path: Path, bundle: Path, parts: Any, kind: str) -> None:
    destination = tmp_path / "mine"
    if kind == "folder":
        destination.mkdir()
        (destination / "thesis.txt").write_text("years")
    elif kind == "file":
        destination.write_text("years")
    else:
        destination.symlink_to(bundle)
    before = snapshot(tmp_path)
    with pytest.raises(errors.DestinationError, match="mine"):
        parts.write(destination)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
@pytest.mark.parametrize("existing", [False, True])
def test_an_interrupted_write_changes_nothing(
    tmp_path: Path, parts: Any, error: BaseException, existing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if existing:
        parts.write(tmp_path / "bundle")
    before = snapshot(tmp_path)

    def fail(descriptor: int) -> None:
        raise error

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(type(error)):
        parts.but(files={**parts.files, "report.html": b"new"}).write(tmp_path / "bundle")
    assert snapshot(tmp_path) == before
    assert os.listdir(tmp_path) == (["bundle"] if existing else [])


@pytest.mark.parametrize("existing", [False, True])
def test_a_bundle_that_is_not_admitted_changes_nothing(tmp_path: Path, parts: Any, existing: bool) -> None:
    if existing:
        parts.write(tmp_path / "bundle")
    before = snapshot(tmp_path)
    changed = parts.but(files={**parts.files, "report.html": b"new"})

    def refuse(folder: Path) -> None:
        assert parts.open(folder).read("report.html") == b"new", "all of it is there"
        assert snapshot(tmp_path / "bundle") == {name.removeprefix("bundle/"): data for name, data in before.items()}
        raise ValueError("not this one")

    with pytest.raises(ValueError, match="not this one"):
        changed.write(tmp_path / "bundle", admit=refuse)
    assert snapshot(tmp_path) == before
    assert os.listdir(tmp_path) == (["bundle"] if existing else [])


def test_a_source_that_cannot_be_read_leaves_nothing(tmp_path: Path, parts: Any) -> None:
    with pytest.raises(FileNotFoundError):
        parts.but(files={**parts.files, "report.html": tmp_path / "absent"}).write(tmp_path / "bundle")
    assert os.listdir(tmp_path) == []


def test_a_failed_last_rename_puts_the_old_bundle_back(bundle: Path, parts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before, rename = snapshot(bundle), Path.rename

    def fail(self: Path, target: Path) -> Path:
        if self.name.endswith(".writing"):
            raise OSError("no")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="no"):
        parts.but(files={**parts.files, "report.html": b"new"}).write(bundle)
    assert snapshot(bundle) == before
    assert os.listdir(bundle.parent) == ["bundle"]


@pytest.mark.parametrize("path", ["../escape", "/etc/passwd", "a\\b", "a//b", "./a", "a/../b", ".git", "c:x", "a b", ""])
def test_a_path_that_could_escape_is_not_written(tmp_path: Path, parts: Any, path: str) -> None:
    with pytest.raises(errors.PathRuleError, match="relative"):
        parts.but(files={**parts.files, path: b""}).write(tmp_path / "bundle")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("path", ["manifest.json", "weights/extra.safetensors"])
def test_files_of_the_writer_cannot_be_given(tmp_path: Path, parts: Any, path: str) -> None:
    with pytest.raises(errors.DestinationError, match="writer itself"):
        parts.but(files={**parts.files, path: b""}).write(tmp_path / "bundle")


def test_a_library_that_is_not_among_the_files(tmp_path: Path, parts: Any) -> None:
    files = {path: data for path, data in parts.files.items() if path != "kernels/cpu.so"}
    with pytest.raises(errors.ManifestError, match=r"kernels/cpu\.so"):
        parts.but(files=files).write(tmp_path / "bundle")
    assert os.listdir(tmp_path) == []
