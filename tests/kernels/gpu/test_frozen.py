"""Tables of frozen kernels: the same bytes for the same kernels, and nothing but what was written is read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kernels.gpu import frozen
from kernels.gpu.frozen import FrozenKernels
from kernels.gpu.refusals import ImageDigestMismatch, TableRefused
from tests.kernels.gpu import samples


def test_a_table_is_the_same_bytes_for_the_same_kernels(tmp_path: Path) -> None:
    samples.table("sm_90").write(tmp_path / "one")
    backwards = reversed([sample.kernel for sample in samples.compiled("sm_90")])
    FrozenKernels("sm_90", backwards).write(tmp_path / "two")
    contents = [{path.name: path.read_bytes() for path in (tmp_path / folder).iterdir()} for folder in ("one", "two")]
    assert contents[0] == contents[1]
    assert FrozenKernels.read(tmp_path / "one").kernels == samples.table("sm_90").kernels


def test_a_damaged_folder_is_refused_with_the_file_at_fault(tmp_path: Path) -> None:
    folder = tmp_path / "frozen"
    with pytest.raises(TableRefused, match=r"kernels\.json must be a table"):
        FrozenKernels.read(folder)
    samples.table("sm_90").write(folder)
    text = (folder / frozen.TABLE).read_text()
    for damaged in (
        text[:-20],
        "[]",
        text.replace('"entry"', '"entri"'),
        text.replace('"op"', '"opp"'),
        text.replace('"arch": "sm_90",', ""),
    ):
        (folder / frozen.TABLE).write_text(damaged)
        with pytest.raises(TableRefused, match=r"kernels\.json must be a table of frozen kernels"):
            FrozenKernels.read(folder)
    (folder / frozen.TABLE).write_text(text.replace('"version": 1', '"version": 2'))
    with pytest.raises(TableRefused, match="version 2, this code reads 1"):
        FrozenKernels.read(folder)
    (folder / frozen.TABLE).write_text(text)

    image = next(folder.glob("*.image"))
    whole = image.read_bytes()
    image.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ImageDigestMismatch, match=f"{image.name} must have the sha256 of its name"):
        FrozenKernels.read(folder)
    image.unlink()
    with pytest.raises(ImageDigestMismatch, match=f"{image.name} must hold an image"):
        FrozenKernels.read(folder)


def test_a_table_is_of_one_architecture_and_has_a_source_once() -> None:
    first, second = (sample.kernel for sample in samples.compiled("sm_90")[:2])
    with pytest.raises(TableRefused, match=r"one architecture, sm_89; sample.scalars is for sm_90"):
        FrozenKernels("sm_89", [first])
    with pytest.raises(TableRefused, match=r"one of sm_80, .*; this one is for 'sm_1'"):
        FrozenKernels("sm_1", [])
    with pytest.raises(TableRefused, match=r"there are two of sample.scalars"):
        FrozenKernels("sm_90", [first, replace(second, source=first.source)])
