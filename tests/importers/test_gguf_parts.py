"""A model in several GGUF files, as the gguf package cuts it, against the same model in one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from optimizer.importers import DamagedFile, MissingFile, open_source
from tests.importers.gguf_writing import write_gguf
from tests.importers.random_models import CONFIGS, SIZES, random_model


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    write_gguf(tmp_path / "model.gguf", random_model(CONFIGS["llama"]), part_tensors=8)
    found = sorted(tmp_path.glob("model-*.gguf"))
    assert [part.name for part in found] == [f"model-0000{i}-of-00004.gguf" for i in (1, 2, 3, 4)]
    return found


@pytest.mark.parametrize("given", [0, 1, 3])
def test_any_part_opens_all(given: int, parts: list[Path], tmp_path: Path) -> None:
    whole = open_source(write_gguf(tmp_path / "whole.gguf", random_model(CONFIGS["llama"])))
    source = open_source(parts[given])
    assert source.architecture == whole.architecture and source.tokenizer_json == whole.tokenizer_json
    for group in whole.architecture.linear_shapes():
        assert torch.equal(source.tensor(f"{group}.weight"), whole.tensor(f"{group}.weight"))
    assert list(source.sha256()) == [part.name for part in parts]
    assert source.checkpoint.where("model.norm.weight").endswith(parts[-1].name)


def test_parts_that_are_missing_are_named(parts: list[Path]) -> None:
    parts[1].unlink()
    parts[2].unlink()
    with pytest.raises(MissingFile, match=r"one of 4 parts.* missing: model-00002-of-00004\.gguf, model-00003-of-00004\.gguf$"):
        open_source(parts[0])


def test_a_part_that_is_there_twice(parts: list[Path]) -> None:
    shutil.copy(parts[1], parts[2])
    with pytest.raises(DamagedFile, match=r"model-00003-of-00004\.gguf is a part twice: .* number 2, from 0 on, .* is 1"):
        open_source(parts[0])


def test_a_part_of_another_model(parts: list[Path], tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    write_gguf(other / "model.gguf", random_model(CONFIGS["llama-biased"]), part_tensors=11)
    shutil.copy(other / parts[3].name, parts[3])
    with pytest.raises(DamagedFile, match=r"00004-of-00004\.gguf is of another model: .*tensors.count = 41, .* 30"):
        open_source(parts[0])


def test_a_part_of_a_model_of_the_same_shape_cut_elsewhere(parts: list[Path], tmp_path: Path) -> None:
    """Only the names of tensors show it."""
    other = tmp_path / "other"
    other.mkdir()
    config = CONFIGS["llama"].__class__(**SIZES)
    write_gguf(other / "model.gguf", random_model(config), part_tensors=9)
    shutil.copy(other / parts[1].name, parts[1])
    with pytest.raises(DamagedFile, match=r"is both in .*model-0000\d-of-00004\.gguf and in .*: one of them is of another"):
        open_source(parts[2])


@pytest.mark.parametrize("name", ["model.gguf", "model-00001-of-00003.gguf"])
def test_a_part_under_another_name(name: str, parts: list[Path]) -> None:
    renamed = parts[0].rename(parts[0].with_name(name))
    with pytest.raises(DamagedFile, match=r"must be named NAME-00001-of-00004\.gguf"):
        open_source(renamed)
