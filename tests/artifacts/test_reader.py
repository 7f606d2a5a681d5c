"""The reader refuses every bundle that is not, byte for byte, the one that was written."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artifacts import errors
from artifacts.reader import check_device, open_bundle, read_manifest, verify_bundle


def test_what_was_written_is_read(bundle: Path, parts: Any) -> None:
    opened = parts.open(bundle)
    assert opened.manifest.name == "tiny"
    assert opened.manifest.architecture == parts.deployment.architecture
    assert opened.read("tokenizer.json") == parts.files["tokenizer.json"]
    assert opened.path("kernels/cpu.so").read_bytes() == parts.files["kernels/cpu.so"]
    assert opened.tensors.keys() == parts.tensors.keys()
    for name, array in parts.tensors.items():
        mapped = opened.tensors[name]
        assert mapped.dtype == array.dtype
        assert not mapped.flags.writeable and not mapped.flags.owndata
        np.testing.assert_array_equal(mapped, array)


def test_a_bundle_can_be_moved_and_reached_through_a_link(bundle: Path, tmp_path: Path, parts: Any) -> None:
    moved = bundle.rename(tmp_path / "elsewhere")
    (tmp_path / "current").symlink_to(moved)
    assert parts.open(tmp_path / "current").root == moved


def test_reading_an_unlisted_file_is_refused(bundle: Path, parts: Any) -> None:
    with pytest.raises(errors.MissingFileError, match="chat_template"):
        parts.open(bundle).read("chat_template.jinja")


def test_a_folder_that_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(errors.NotABundleError, match=r"manifest\.json"):
        read_manifest(tmp_path)
    with pytest.raises(errors.NotABundleError):
        read_manifest(tmp_path / "absent")


def test_a_missing_file(bundle: Path) -> None:
    (bundle / "report.html").unlink()
    with pytest.raises(errors.MissingFileError, match=r"report\.html") as caught:
        verify_bundle(bundle)
    assert caught.value.path == "report.html"


def test_an_extra_file(bundle: Path) -> None:
    (bundle / "kernels/other.so").write_bytes(b"")
    with pytest.raises(errors.ExtraFileError, match=r"kernels/other\.so"):
        verify_bundle(bundle)


def test_a_file_cut_short(bundle: Path) -> None:
    os.truncate(bundle / "weights/model.safetensors", 100)
    with pytest.raises(errors.SizeMismatchError, match=r"weights/model\.safetensors"):
        verify_bundle(bundle)


@pytest.mark.parametrize("name", ["report.html", "manifest.json"])
def test_a_link_in_place_of_a_file(bundle: Path, tmp_path: Path, name: str) -> None:
    (bundle / name).rename(tmp_path / "outside")
    (bundle / name).symlink_to(tmp_path / "outside")
    with pytest.raises(errors.LinkError, match=name):
        verify_bundle(bundle)


def test_a_link_in_place_of_a_folder(bundle: Path, tmp_path: Path) -> None:
    shutil.move(bundle / "weights", tmp_path / "weights")
    (bundle / "weights").symlink_to(tmp_path / "weights")
    with pytest.raises(errors.LinkError, match="weights"):
        verify_bundle(bundle)


def test_a_pipe_in_place_of_a_file(bundle: Path) -> None:
    (bundle / "report.html").unlink()
    os.mkfifo(bundle / "report.html")
    with pytest.raises(errors.FileTypeError, match=r"report\.html"):
        verify_bundle(bundle)


def test_a_file_name_that_breaks_the_path_rule(bundle: Path) -> None:
    (bundle / ".hidden").write_bytes(b"")
    with pytest.raises(errors.PathRuleError, match=r"\.hidden"):
        verify_bundle(bundle)


@pytest.mark.parametrize(
    ("host", "fault"),
    [
        ({"machine": "aarch64", "cpu_flags": frozenset({"avx2", "fma"})}, "aarch64"),
        ({"machine": "x86_64", "cpu_flags": frozenset({"fma"})}, "avx2"),
    ],
)
def test_a_host_that_the_kernels_do_not_suit(bundle: Path, host: dict[str, Any], fault: str) -> None:
    with pytest.raises(errors.DeviceError, match=fault):
        open_bundle(bundle, **host)


def test_a_device_that_this_runtime_does_not_serve(parts: Any) -> None:
    target = parts.deployment.target.model_copy(update={"device": "h100"})
    with pytest.raises(errors.DeviceError, match="h100"):
        check_device(target, machine="x86_64", cpu_flags=frozenset())


def test_a_tensor_in_two_shards(tmp_path: Path, parts: Any) -> None:
    parts.write(tmp_path / "one")
    shard = (tmp_path / "one/weights/model.safetensors").read_bytes()
    manifest = read_manifest(tmp_path / "one")
    files = {**manifest.files, "weights/more.safetensors": manifest.files["weights/model.safetensors"]}
    (tmp_path / "one/weights/more.safetensors").write_bytes(shard)
    _, data = type(manifest).seal(parts.deployment, files)
    (tmp_path / "one/manifest.json").write_bytes(data)
    with pytest.raises(errors.WeightsError, match="in two"):
        parts.open(tmp_path / "one")


@given(data=st.data())
@settings(max_examples=150)
def test_one_flipped_bit_is_refused_naming_the_file(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory, parts: Any
) -> None:
    root = tmp_path_factory.getbasetemp() / "flipped"
    if not root.exists():
        parts.write(root)
    names = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
    name = data.draw(st.sampled_from(names))
    original = (root / name).read_bytes()
    bit = data.draw(st.integers(0, 8 * len(original) - 1))
    flipped = bytearray(original)
    flipped[bit // 8] ^= 1 << bit % 8
    (root / name).write_bytes(flipped)
    try:
        with pytest.raises(errors.BundleError) as caught:
            parts.open(root)
    finally:
        (root / name).write_bytes(original)
    assert caught.value.path == name
    assert name in str(caught.value)


@pytest.mark.slow
def test_every_bit_of_the_manifest_counts(bundle: Path) -> None:
    original = (bundle / "manifest.json").read_bytes()
    for position in range(len(original)):
        flipped = bytearray(original)
        flipped[position] ^= 1 << position % 8
        (bundle / "manifest.json").write_bytes(flipped)
        with pytest.raises(errors.BundleError, match=r"manifest\.json"):
            read_manifest(bundle)
